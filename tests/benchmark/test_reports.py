import dataclasses

import pytest

from benchmark.attention import docs_page
from benchmark.attention.goals import judge, key_growth, query_growth
from benchmark.attention.lanes import lane_environment
from benchmark.attention.plan import Plan, read_plan, write_plan
from benchmark.attention.report import (
    absent_table,
    case_line,
    decode_table,
    prefill_peers_table,
    prefill_table,
    table,
)
from benchmark.attention.results import read_lanes, write_lanes
from benchmark.attention.shapes import prefill_case
from benchmark.attention.who import fastest_peer, peer_ratio, reference
from tests.benchmark.results_of import decode_result, lane, prefill_result, result, timing


def outcomes(*lanes):
    return {verdict.work: verdict.outcome for verdict in judge(lanes)}


def test_like_is_held_against_like():
    found = prefill_result(1.0, 3.0)
    assert reference(found, "torch float32") == "kernel int8"
    assert reference(found, "ORT unfused") == "operator int8"
    assert peer_ratio(found, "ORT unfused").middle == pytest.approx(2.0)
    assert fastest_peer(found)[0] == "ORT unfused"


def test_who_is_wrong_wins_nothing():
    found = result(
        prefill_case("smol", 512, False),
        {"kernel int8": timing(1.0), "fast": timing(0.1, wrong=True), "slow": timing(5.0)},
    )
    assert fastest_peer(found)[0] == "slow"
    assert peer_ratio(found, "fast") is None
    assert "WRONG: fast" in case_line(found)


def test_if_ours_is_wrong_there_is_no_ratio():
    found = result(
        prefill_case("smol", 512, False),
        {"kernel int8": timing(1.0, wrong=True), "torch float32": timing(5.0)},
    )
    assert peer_ratio(found, "torch float32") is None
    assert "WRONG" in prefill_table([lane(found)])


@pytest.mark.parametrize(
    ("torch", "outcome"), [(1.5, "not met"), (2.5, "must met"), (3.5, "goal met")]
)
def test_goals_are_judged_by_the_median(torch, outcome):
    found = outcomes(lane(prefill_result(1.0, torch), prefill_result(1.0, torch, causal=True)))
    assert found["VNNI without AMX: prefill / torch float32"] == outcome


def test_short_sequences_do_not_count():
    long, short = prefill_result(1.0, 3.5), prefill_result(1.0, 0.1, length=128)
    found = outcomes(lane(long, short))
    assert found["VNNI without AMX: prefill / torch float32"] == "goal met"


def test_goals_of_other_processors_are_not_judged():
    found = outcomes(lane(prefill_result(1.0, 3.5), isa="amxint8"))
    assert "not measurable" in found["VNNI without AMX: prefill / torch float32"]
    found = outcomes(lane(prefill_result(1.0, 3.5), isa="avx512vnni"))
    assert "no AMX here" in found["AMX: prefill int8 full / torch bf16"]


def test_each_goal_takes_its_own_lane():
    slow, fast = prefill_result(1.0, 1.2), prefill_result(1.0, 3.5)
    lanes = lane(fast), lane(slow, name="avx2, 1 thread", isa="avx2")
    found = outcomes(*lanes)
    assert found["VNNI without AMX: prefill / torch float32"] == "goal met"
    assert found["AVX2 only: prefill, torch held to AVX2 / torch float32"] == "must met"


def test_decoding_is_held_against_reading():
    found = outcomes(lane(decode_result(ours=1.0, reading=0.7, packed=0.6)))
    assert found["decode int8 cache: share of reading it"] == "must met"
    assert found["decode int4 cache / our int8 cache"] == "goal met"


def test_what_was_not_measured_is_not_judged():
    assert outcomes(lane())["decode int4 cache / our int8 cache"] == "not measured in this run"


def test_memory_may_grow_with_keys_alone():
    lines = lane().scratch
    assert query_growth(lines) == 1.0
    assert key_growth(lines) == 1.0
    assert outcomes(lane())["memory beyond inputs and outputs"] == "met"
    more = dataclasses.replace(lines[1], bytes=4000)
    grown = dataclasses.replace(lane(), scratch=(lines[0], more, *lines[2:]))
    assert outcomes(grown)["memory beyond inputs and outputs"] == "not met"


def test_results_survive_json(tmp_path):
    lanes = [lane(prefill_result(1.0, 2.0)), lane(decode_result(1.0, 0.5, 0.5), threads=2)]
    write_lanes(tmp_path / "lanes.json", lanes)
    assert read_lanes(tmp_path / "lanes.json") == lanes


def test_plans_survive_json(tmp_path):
    cases = (prefill_case("smol", 512, True),)
    plan = Plan("x", 2, "avx2", cases, ("ours",), ("kernel",), 1.0, 3, 9, 2.0)
    write_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json") == plan


def test_shares_are_of_the_set_that_runs():
    assert lane(isa="avx512bf16").peak() == 8e11
    assert lane(isa="avx512bf16").float_peak() == 2e11
    assert lane(isa="avx2").peak() == 2e11
    assert lane(isa="avx2").float_peak() == 1e11


def test_tables_have_a_line_for_each_case():
    found = lane(prefill_result(1.0, 3.0), decode_result(1.0, 0.7, 0.5))
    assert prefill_table([found]).count("\n") == 3
    assert decode_table([found]).count("\n") == 3
    assert "3.00 (3.00-3.00)" in prefill_peers_table([found])
    assert "torchao int8 | no kernel | 1" in absent_table([found])


def test_a_table_is_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"


def test_the_page_has_a_place_for_every_table():
    page = docs_page.PAGE.read_text(encoding="utf-8")
    contents = docs_page.tables([lane(prefill_result(1.0, 3.0), decode_result(1.0, 0.7, 0.5))])
    written = docs_page.filled(page, contents)
    assert all(content in written for content in contents.values())
    assert docs_page.filled(written, contents) == written


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="goals"):
        docs_page.filled("nothing\n", {"goals": "x\n"})


def test_everyone_is_told_to_hold_to_the_set():
    words = lane_environment(2, "avx2")
    assert words["OMP_NUM_THREADS"] == "2"
    assert words["QFA_ISA"] == words["ATEN_CPU_CAPABILITY"] == "avx2"
    assert words["ONEDNN_MAX_CPU_ISA"] == words["MKL_ENABLE_INSTRUCTIONS"] == "AVX2"
    assert "QFA_ISA" not in lane_environment(1, "")
