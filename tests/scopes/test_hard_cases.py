"""Bodies that cannot be run, read from sequences, or belong to operators that nobody knows."""

import numpy as np
import onnx
from onnx import helper

from qfa_passes import api
from qfa_passes.calibrate.body_turns import TURNS
from qfa_passes.core.dataset import DataSet
from tests.end_to_end.outcomes import float_outputs, outputs, statuses, worst
from tests.scopes.models import (
    DECODER,
    OTHER,
    body_of,
    bool_value,
    flagged,
    inner_nodes,
    merged,
    merged_decoder,
    shell_of,
)
from tests.scopes.search import VOCABULARY, greedy_search


def test_branch_that_fails_on_what_it_would_be_given() -> None:
    """The branch that is not taken would index beyond a table; it is verified on inputs made up for it."""
    model = merged_decoder()
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "then_branch":
            body = attribute.g
            body.node.insert(0, helper.make_node("Gather", ["table", "index"], ["row"], axis=0))
            body.node[-1].input.append("row")
            body.node[-1].op_type = "Add"
    model.graph.initializer.extend(
        [onnx.numpy_helper.from_array(np.zeros((4, 64), np.float32), "table")]
    )
    model.graph.input.append(helper.make_tensor_value_info("index", onnx.TensorProto.INT64, [1]))
    bad = {**flagged(False), "index": np.array([9])}
    result = api.optimize(model, calibration=DataSet((bad,), "one input"))
    assert statuses(result) == ["fused"] * 3
    assert any("then_branch are verified on seeded random" in t for t in result.report.warnings)
    good = {**flagged(True), "index": np.array([1])}
    assert worst(outputs(result.model, good), float_outputs(model, good)) < 5e-4


def test_values_that_are_not_finite_leave_their_branch_alone() -> None:
    """Real data that reaches a branch and cannot be calibrated on is no reason to try other data."""
    model = merged_decoder()
    nan = {**flagged(True), "x0": flagged(True)["x0"] * np.float32(np.nan)}
    data = DataSet((nan,), "one input")
    result = api.optimize(model, calibration=data, scale_mode="static", max_error=1.0)
    fates = {entry.name: entry for entry in result.report.sites}
    assert fates["choice/then_branch/attention_0"].status == "exempt"
    assert "not finite" in fates["choice/then_branch/attention_0"].reason


def test_branch_that_reads_a_sequence() -> None:
    """A sequence cannot be captured; the sites are there all the same."""
    model = merged_decoder()
    model.graph.node.insert(0, helper.make_node("SequenceConstruct", ["x0"], ["list"], "listing"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "place"))
    for attribute in model.graph.node[1].attribute:
        body = attribute.g
        body.node.insert(0, helper.make_node("SequenceAt", ["list", "place"], ["entry"], "taking"))
        for node in list(body.node)[1:]:
            for position, name in enumerate(node.input):
                if name == "x0":
                    node.input[position] = "entry"
    result = api.optimize(model)
    assert len(result.report.sites) == 3
    for flag in (True, False):
        feed = flagged(flag)
        assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4


def test_body_of_an_operator_that_nobody_knows_is_left_alone_where_it_cannot_be_run() -> None:
    inside = DECODER.model()
    model = shell_of([inside], ["result"])
    node = helper.make_node("Perhaps", ["x0"], ["result"], "maybe", domain="theirs")
    node.attribute.append(helper.make_attribute("body", body_of(inside, "body", "inner")))
    model.graph.node.append(node)
    model.opset_import.append(helper.make_opsetid("theirs", 1))
    found = api.inspect(model)
    assert [entry.name for entry in found] == ["maybe/body/attention_0", "maybe/body/attention_1"]
    result = api.optimize(model)  # ONNX Runtime cannot run it; nothing is known of its outputs
    assert any("not run" in text for text in result.report.warnings)


def test_same_names_in_both_branches_and_none_for_the_node() -> None:
    model = merged(OTHER.model(), OTHER.model())
    model.graph.node[0].name = ""
    result = api.optimize(model)
    assert statuses(result) == ["fused"] * 2
    assert {entry.name for entry in result.report.sites} == {
        "If_result/then_branch/attention_0",
        "If_result/else_branch/attention_0",
    }


def test_two_choices_in_a_row() -> None:
    model = merged_decoder()
    second = onnx.NodeProto()
    second.CopyFrom(model.graph.node[0])
    second.input[0], second.output[0], second.name = "other", "again", ""
    model.graph.node.append(second)
    model.graph.input.append(bool_value("other"))
    model.graph.output.append(model.graph.output[0])
    model.graph.output[1].name = "again"
    result = api.optimize(model)
    assert statuses(result) == ["fused"] * 6
    assert len({entry.name for entry in result.report.sites}) == 6
    feed = flagged(True, other=False)
    assert worst(outputs(result.model, feed), float_outputs(model, feed)) < 5e-4
    assert [n.op_type for n in inner_nodes(result.model)].count("QuantFlashAttention") == 6


def test_turns_of_loops_and_scans() -> None:
    loop = helper.make_node("Loop", ["m", "", "s"], ["r"])
    turns = TURNS["Loop"](loop, "body", ("i", "c", "x"), ("w",))
    values = {"m": np.array(2), "s": np.array([1.0]), "w": np.array([5.0])}
    assert turns.reads == ["m", "s", "w"]
    assert turns.entered(values)
    first = turns.first(values)
    assert (int(first["i"]), bool(first["c"]), first["x"][0], first["w"][0]) == (0, True, 1, 5)
    following = turns.following(values, [np.array(True), np.array([7.0])], 1)
    assert following is not None
    assert (int(following["i"]), following["x"][0]) == (1, 7)
    assert turns.following(values, [np.array(False), np.array([7.0])], 1) is None
    assert turns.following(values, [np.array(True), np.array([7.0])], 2) is None
    assert not turns.entered({**values, "m": np.array(0)})

    scan = helper.make_node(
        "Scan", ["s", "a"], ["r"], num_scan_inputs=1, scan_input_axes=[1], scan_input_directions=[1]
    )
    turns = TURNS["Scan"](scan, "body", ("x", "slice"), ())
    values = {"s": np.array([1.0]), "a": np.array([[1, 2, 3], [4, 5, 6]])}
    np.testing.assert_array_equal(turns.first(values)["slice"], [3, 6])
    following = turns.following(values, [np.array([9.0])], 2)
    assert following is not None
    np.testing.assert_array_equal(following["slice"], [1, 4])
    assert turns.following(values, [np.array([9.0])], 3) is None

    branch = helper.make_node("If", ["c"], ["r"])
    turns = TURNS["If"](branch, "else_branch", (), ("w",))
    assert turns.entered({"c": np.array(False), "w": np.array(1)})
    assert not turns.entered({"c": np.array([True]), "w": np.array(1)})


def test_decoder_inside_a_search_says_the_same_tokens() -> None:
    """The body of an operator of ONNX Runtime that generates text; what it is given is not known."""
    model = greedy_search()
    result = api.optimize(model)
    assert [(entry.name, entry.status) for entry in result.report.sites] == [
        ("search/decoder/attend", "fused")
    ]
    assert any("not known what GreedySearch gives" in text for text in result.report.warnings)
    tokens = np.random.default_rng(0).integers(0, VOCABULARY - 1, (2, 5)).astype(np.int32)
    (wanted,) = float_outputs(model, {"input_ids": tokens})
    for library in (True, False):
        (got,) = outputs(result.model, {"input_ids": tokens}, library=library)
        np.testing.assert_array_equal(got, wanted)
    twice = api.optimize(result.model).model
    same = twice.SerializeToString(deterministic=True)
    assert same == result.model.SerializeToString(deterministic=True)
