"""Inputs made up for a model: accepted by it, the same every time, honest about what they are."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qfa_passes.errors import InvalidDataError
from qfa_passes.verify.seeded import index_bounds, seeded_data


def embedding_model(rows: int = 7) -> onnx.ModelProto:
    """Looks up ids (cast and reshaped on the way) and types, adds them, scales by an image."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "wide"], ["words"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["kinds"]),
        helper.make_node("Add", ["words", "kinds"], ["sum"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["sum", "column"], ["masked"]),
        helper.make_node("Add", ["masked", "noise"], ["out"]),
    ]
    tokens = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT32, tokens),
            helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, tokens),
            helper.make_tensor_value_info("attention_mask", TensorProto.BOOL, tokens),
            helper.make_tensor_value_info("noise", TensorProto.FLOAT16, [*tokens, 4]),
        ],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT16, None)],
        [
            helper.make_tensor("table", TensorProto.FLOAT16, [rows, 4], np.ones(4 * rows)),
            helper.make_tensor("types", TensorProto.FLOAT16, [2, 4], np.ones(8)),
            helper.make_tensor("last", TensorProto.INT64, [1], [2]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.graph.node[4].attribute[0].i = TensorProto.FLOAT16
    return model


def test_the_model_accepts_them() -> None:
    model = embedding_model()
    data = seeded_data(model, samples=3, batch=2, sequence=30)
    for feed in data.feeds:
        (out,) = ReferenceEvaluator(model).run(None, feed)
        assert out.shape == (2, 30, 4)
    assert data.label == "seeded random inputs (seed 0)"
    assert not data.digest


def test_types_ranges_and_open_axes() -> None:
    feed = seeded_data(embedding_model(), batch=1, sequence=500).feeds[0]
    assert {name: array.dtype.name for name, array in feed.items()} == {
        "input_ids": "int32",
        "token_type_ids": "int64",
        "attention_mask": "bool",
        "noise": "float16",
    }
    assert set(feed["input_ids"].ravel().tolist()) == set(range(7))
    assert set(feed["token_type_ids"].ravel().tolist()) == {0, 1}
    assert feed["attention_mask"].all()
    assert feed["noise"].shape == (1, 500, 4)


def test_every_other_sample_is_padded() -> None:
    whole, padded, again = seeded_data(embedding_model(), samples=3, sequence=30).feeds
    assert whole["attention_mask"].all()
    assert padded["attention_mask"].tolist() == [[True] * 23 + [False] * 7]
    assert again["attention_mask"].all()


def test_same_seed_same_inputs() -> None:
    first, again, other = (seeded_data(embedding_model(), seed=s).feeds[0] for s in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["noise"], other["noise"])


def test_sizes_by_symbol_and_given_vocabulary() -> None:
    feed = seeded_data(embedding_model(), sizes={"sequence": 9}, vocabulary=3).feeds[0]
    assert feed["input_ids"].shape == (1, 9)
    assert feed["input_ids"].max() < 3


def test_table_behind_a_dequantizer() -> None:
    model = embedding_model(rows=5)
    graph = model.graph
    graph.initializer[0].name = "codes"
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["codes", "step"], ["table"]))
    assert index_bounds(graph) == {"input_ids": 5, "token_type_ids": 2}


def test_other_axis_is_no_table() -> None:
    model = embedding_model()
    model.graph.node[1].attribute.append(helper.make_attribute("axis", 1))
    assert "input_ids" not in index_bounds(model.graph)


def test_conditions_hide_and_show_and_flags_are_off() -> None:
    """A condition with rows may be a mask of either sense; one number is a flag."""
    shapes = {"condition": [2, 1, 8, 8], "use_cache_branch": [1], "flag": []}
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.BOOL, shapes[name]) for name in shapes
    ]
    node = helper.make_node("And", ["condition", "flag"], ["out"])
    output = helper.make_tensor_value_info("out", TensorProto.BOOL, None)
    graph = helper.make_graph([node], "g", inputs, [output])
    (feed,) = seeded_data(helper.make_model(graph)).feeds
    assert feed["condition"].any()
    assert not feed["condition"].all()
    assert not feed["flag"].any()
    assert not feed["use_cache_branch"].any()


def test_strings_are_refused() -> None:
    model = embedding_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(InvalidDataError, match="input_ids"):
        seeded_data(model)
