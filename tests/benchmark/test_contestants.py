"""Everybody that is installed computes the right thing, at sizes that take no time."""

import pytest

from benchmark.attention import (
    kernel,
    lanes,
    onnx_operator,
    onnxruntime_decode,
    onnxruntime_peers,
    openvino_peers,
    torch_peers,
)
from benchmark.attention.case import Case, checked_rows, exact, make_operands, normalized_error
from benchmark.attention.contestant import Absent
from benchmark.attention.lanes import run_lane
from benchmark.attention.plan import Plan
from tests.benchmark.results_of import lane, prefill_result

PREFILL = [kernel.prefill, onnx_operator.prefill, onnxruntime_peers.prefill]
DECODE = [kernel.decode, onnx_operator.decode, onnxruntime_decode.decode]
OTHERS = [
    pytest.param(module, marks=pytest.mark.models) for module in (torch_peers, openvino_peers)
]
LIBRARY = {torch_peers: "torch", openvino_peers: "openvino"}

SEQUENCES = [Case("", 1, 4, 2, 64, 96, 96, False), Case("", 1, 2, 2, 64, 70, 70, True)]
STEPS = [Case("", 1, 4, 2, 64, 1, 96, True, True), Case("", 1, 2, 2, 64, 3, 70, True, True)]


def check(field, case, threads=1):
    operands = make_operands(case)
    wanted = exact(case, operands)
    made = 0
    for entry in field(case, operands, threads):
        if isinstance(entry, Absent):
            continue
        contestant = entry.make()
        assert contestant.name == entry.name
        contestant.run()
        if contestant.output is not None:
            error = normalized_error(contestant.output()[:, :, checked_rows(case)], wanted)
            assert error < contestant.worst, entry.name
        made += 1
    return made


@pytest.mark.parametrize("case", SEQUENCES, ids=lambda case: case.mask)
@pytest.mark.parametrize("field", PREFILL, ids=lambda field: field.__module__.split(".")[-1])
def test_sequences(field, case):
    assert check(field, case)


@pytest.mark.parametrize("case", STEPS, ids=lambda case: f"{case.queries} new")
@pytest.mark.parametrize("field", DECODE, ids=lambda field: field.__module__.split(".")[-1])
def test_steps(field, case):
    assert check(field, case)


def test_two_threads_are_held_against_one():
    operands = make_operands(SEQUENCES[0])
    names = [entry.name for entry in kernel.prefill(SEQUENCES[0], operands, 2)]
    assert "kernel int8" in names and "kernel int8, 1 thread" in names


@pytest.mark.parametrize("module", OTHERS)
@pytest.mark.parametrize("case", SEQUENCES, ids=lambda case: case.mask)
def test_sequences_of_other_libraries(module, case):
    pytest.importorskip(LIBRARY[module])
    assert check(module.prefill, case)


@pytest.mark.parametrize("module", OTHERS)
def test_steps_of_other_libraries(module):
    pytest.importorskip(LIBRARY[module])
    assert check(module.decode, STEPS[0])


def plan(*cases):
    return Plan("tiny", 1, "", cases, ("ours", "onnxruntime"), (), 0.0, 1, 1, 9.0)


def test_a_process_measures_all():
    result = run_lane(plan(SEQUENCES[0], STEPS[0]))
    assert [each.case for each in result.cases] == [SEQUENCES[0], STEPS[0]]
    assert {"kernel int8", "operator int8", "ORT unfused"} <= set(result.cases[0].timings)
    assert {"kernel int4 cache", "reading the int4 cache"} <= set(result.cases[1].timings)
    assert not any(timing.wrong for each in result.cases for timing in each.timings.values())
    assert result.reading["DRAM"] > 1e8
    assert max(result.peaks.values()) > 1e9


def test_a_process_that_dies_costs_one_case(monkeypatch):
    asked = []

    def die_in_the_second(part):
        asked.append([case.keys for case in part.cases])
        done = [prefill_result(1.0, 2.0)] * (1 if len(part.cases) > 1 else 0)
        return -11, lane(*done)

    monkeypatch.setattr(lanes, "_run_process", die_in_the_second)
    found = run_lane(plan(*SEQUENCES, STEPS[0]))
    # The first is measured, the second dies; then the third dies, too.
    assert asked == [[96, 70, 96], [96]]
    assert [each.absent.get("everyone", "") for each in found.cases] == [
        "",
        "the process ended with -11",
        "the process ended with -11",
    ]


def test_a_process_that_cannot_begin_is_an_error(monkeypatch):
    monkeypatch.setattr(lanes, "_run_process", lambda part: (1, None))
    with pytest.raises(RuntimeError, match="before its first case"):
        run_lane(plan(SEQUENCES[0]))
