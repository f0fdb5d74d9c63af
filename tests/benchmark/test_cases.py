import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from benchmark.attention.case import (
    Case,
    causal_mask,
    checked_rows,
    exact,
    make_operands,
    normalized_error,
)
from benchmark.attention.shapes import (
    HEADS,
    decode_cases,
    held_cases,
    prefill_cases,
    quick_cases,
    thread_cases,
)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [1, 5, 12])
def test_the_right_answer_is_that_of_the_standard_operator(queries, causal):
    case = Case("", 2, 4, 2, 8, queries, 12, causal)
    operands = make_operands(case)
    rows = checked_rows(case)
    node = helper.make_node("Attention", ["q", "k", "v", "mask"], ["y"], scale=case.scale)
    mask = causal_mask(queries, 12) if causal else np.zeros((queries, 12), np.float32)
    graph = helper.make_graph(
        [node],
        "attention",
        [helper.make_tensor_value_info(name, 1, None) for name in ("q", "k", "v", "mask")],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    feeds = {"q": operands.query, "k": operands.key, "v": operands.value, "mask": mask}
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    assert normalized_error(expected[:, :, rows], exact(case, operands)) < 1e-12


def test_the_last_row_is_always_checked():
    case = Case("", 1, 1, 1, 8, 1000, 1000, True)
    assert checked_rows(case)[-1] == 999
    assert len(checked_rows(case)) == 8


def test_what_is_no_number_is_infinitely_wrong():
    assert normalized_error(np.array([np.nan, 1.0]), np.ones(2)) == float("inf")


def test_causal_work_is_counted_half_and_that_of_new_tokens_whole():
    assert Case("", 1, 2, 2, 64, 256, 256, True).flops == 2 * 64 * 256 * 256 * 2
    assert Case("", 1, 2, 2, 64, 1, 256, True, True).flops == 4 * 64 * 256 * 2


def test_no_two_cases_of_a_table_have_one_name():
    for cases in (
        prefill_cases() + decode_cases(),
        quick_cases(),
        thread_cases(),
        held_cases(),
        prefill_cases(("smol",), (64, 96)),
    ):
        labels = [case.label for case in cases]
        assert len(set(labels)) == len(labels)


def test_every_kind_of_heads_is_in_the_table():
    table = prefill_cases() + decode_cases()
    assert {case.model for case in table} == set(HEADS)
    assert {case.queries for case in table if case.decode} == {1, 2, 4, 16}
    assert max(case.keys for case in table if case.decode) == 131_072
