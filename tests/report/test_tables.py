"""Tables: what they say, and that foreign names cannot command the terminal."""

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from qfa_passes.core.comparison import ModelFacts, Verdict
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.outcome import Proof, SiteOutcome, SiteStatus, Standing
from qfa_passes.core.site import AttentionSite, Mask, Operand, Refusal
from qfa_passes.report.comparison_tables import (
    comparison_rows,
    comparison_table,
    duration,
    faster,
    file_size,
    verdict_lines,
)
from qfa_passes.report.console import message
from qfa_passes.report.doctor_table import doctor_table
from qfa_passes.report.inspection_tables import explanation, matched_table
from qfa_passes.report.site_tables import outcome_table
from qfa_passes.report.summary import summary
from qfa_passes.runtime.doctor import DoctorReport
from qfa_passes.runtime.instruction_sets import InstructionSet
from qfa_passes.runtime.self_test import SelfTestCase
from tests.report.records import HOSTILE, comparison, report

FLOAT = AttentionFormat.FLOAT


def text_of(*parts: RenderableType) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=200, highlight=False, markup=False)
    for part in parts:
        console.print(part)
    return stream.getvalue()


def site(name: str = "/layers.0/Softmax") -> AttentionSite:
    return AttentionSite(
        name=name,
        query=Operand("q"),
        key=Operand("k"),
        value=Operand("v"),
        output="o",
        mask=Mask(causal=True),
        scale=0.125,
        num_heads=9,
        kv_num_heads=3,
        qk_channels=64,
        v_channels=32,
        dtype=1,
        nodes=(name, "/layers.0/MatMul"),
        exporter="decomposed",
        notes=("3-fold repeated heads folded",),
    )


REFUSAL = Refusal("/x/Softmax", "its axis is 1", "transpose first", ("found MatMul after it",))


def test_optimize_summary() -> None:
    done = report()
    done.comparison = comparison(Verdict.WARN)
    text = text_of(*summary(done))
    assert "Attention sites: 3 found, 1 fused, 1 restored, 1 refused" in text
    assert "/layers.0/Softmax  GQA 9:3    fused     proven     1.5e-05  5e-04" in text
    assert "NMSE above the bound" in text
    assert "verified on: seeded random inputs" in text
    assert "warning: no calibration data" in text
    assert "wrote model.qfa.onnx (1.0 MB -> 0.9 MB) in 1.50 s" in text
    assert "verdict: warn" in text


def test_what_a_proof_leaves_open_is_told() -> None:
    done = report()
    note = Proof(Standing.PROVEN, reason="its window of 4096 keys is longer than these runs")
    done.sites[0] = replace(done.sites[0], proof=note)
    unproven = Proof(Standing.OPEN, reason="too large")
    done.sites.append(replace(done.sites[0], name="d", proof=unproven))
    text = text_of(*summary(done))
    assert "its window of 4096 keys is longer than these runs" in text
    assert "not proven: too large" in text


def test_what_is_fused_in_float() -> None:
    done = report()
    why = "in float: int8 NMSE 5.60e-04 is above the bound 5.00e-04"
    done.sites = [
        done.sites[0],
        SiteOutcome("b", SiteStatus.FUSED, why, 4.2e-14, 1e-9, "MHA 6", format=FLOAT),
        SiteOutcome("c", SiteStatus.FUSED, "", 3.1e-14, 1e-9, "MHA 6", format=FLOAT),
    ]
    lines = [line.rstrip() for line in text_of(outcome_table(done)).splitlines()]
    assert lines == [
        "Attention sites: 3 found, 3 fused (1 int8, 2 float)",
        "where              attention  status  structure  NMSE     bound  reason",
        "/layers.0/Softmax  GQA 9:3    fused   proven     1.5e-05  5e-04",
        f"b                  MHA 6      fused   -          4.2e-14  1e-09  {why}",
        "c                  MHA 6      fused   -          3.1e-14  1e-09  in float",
    ]
    done.sites[1] = replace(done.sites[1], proof=Proof(Standing.OPEN, reason="too large"))
    assert f"{why}; not proven: too large" in text_of(outcome_table(done))


def test_fused_models_tell_what_is_in_float() -> None:
    done = comparison()
    mixed = replace(done, b=replace(done.b, in_float=4))
    (row,) = [row for row in comparison_rows(mixed) if row.measure == "attention sites"]
    assert row.after == "29 fused (4 in float) + 1 float"
    title = text_of(*matched_table([], fused=3, plain=1))
    assert "0 matched, 0 refused, 3 fused already (1 in float)" in title


def test_before_after_table() -> None:
    lines = text_of(comparison_table(comparison())).splitlines()
    cells = {line[:19].strip(): line[19:].split("  ") for line in lines[2:]}
    found = {name: [cell.strip() for cell in row if cell.strip()] for name, row in cells.items()}
    assert found["attention sites"] == ["30 float", "29 fused + 1 float"]
    assert found["size"] == ["540.8 MB", "539.8 MB", "-0.2%"]
    assert found["latency"] == ["20.0 ms", "10.0 ms", "2.00x faster; input_ids (1, 512)"]
    assert found["perplexity"][:2] == ["39.24", "39.28"]
    assert "+0.10% (95 % confidence -0.04% .. +0.24%, 8176 tokens)" in found["perplexity"][2]
    assert found["KL divergence"] == ["0", "3.0e-04", "99 %: 2.0e-03"]


def test_other_models_show_their_outputs() -> None:
    rows = comparison_rows(comparison(language=False))
    assert [row.measure for row in rows][-1] == "NMSE of logits"
    assert rows[-1].after == "1.0e-03"


def test_unknown_facts_are_left_out() -> None:
    bare = comparison()
    object.__setattr__(bare, "a", ModelFacts("x"))
    assert "size" not in [row.measure for row in comparison_rows(bare)]


def test_verdict() -> None:
    text = text_of(*verdict_lines(comparison(Verdict.FAIL)))
    assert text.splitlines() == [
        "verdict: fail",
        "  KL divergence 0.5",
        "  warning: little text",
    ]


def test_inspect_table() -> None:
    found = replace(site(), kind=("self",), extents=("2", "seq", "past + seq"))
    text = text_of(*matched_table([found, REFUSAL], exporter="tf2onnx 1.2", fused=3))
    assert "1 matched, 1 refused, 3 fused already; model written by tf2onnx 1.2" in text
    assert "self GQA 9:3, D 64/32, causal  B=2 S=seq T=past + seq  decomposed" in text
    assert "matched  3-fold repeated heads folded" in text
    assert "its axis is 1 (transpose first)" in text


def test_why_not() -> None:
    assert list(explanation(REFUSAL)) == [
        "/x/Softmax is not matched.",
        "  understood: found MatMul after it",
        "  stopped at: its axis is 1",
        "  hint: transpose first",
    ]
    found = explanation(site())
    assert found[0].startswith("/layers.0/Softmax is matched: GQA 9:3, D 64/32, causal, written as")
    assert found[-1] == "  note: 3-fold repeated heads folded"


def test_why_not_of_a_node_nearby() -> None:
    assert (
        explanation(REFUSAL, "/x/Add", 2)[0] == "/x/Add is 2 nodes from the attention /x/Softmax."
    )
    assert explanation(REFUSAL, "/x/Add", 1)[0] == "/x/Add is 1 node from the attention /x/Softmax."
    assert explanation(REFUSAL, "/x/Add")[0] == "/x/Add is part of the attention /x/Softmax."
    assert explanation(REFUSAL, "/x/Softmax")[0] == "/x/Softmax is not matched."


def test_doctor_table() -> None:
    found = DoctorReport(
        system="Linux x86_64",
        packages={"onnx": "1.23.2", "numpy": "missing"},
        library="/lib/libqfa_ops.so",
        library_version="0.1.0",
        instruction_sets=(InstructionSet("scalar", True), InstructionSet("amxint8", False)),
        forced="scalar",
        chosen="scalar",
        self_test=(SelfTestCase("odd", 1e-4), SelfTestCase("bad", None, "crashed")),
        problems=("QFA-E401 broken\n  hint: mend it",),
    )
    lines = [line.rstrip() for line in text_of(doctor_table(found)).splitlines()]
    assert "instruction set scalar   ok      usable, used" in lines
    assert "instruction set amxint8  ok      not on this processor" in lines
    assert "self-test bad            FAIL    crashed" in lines
    assert any(
        line.startswith("problem                  FAIL    QFA-E401 broken") for line in lines
    )


@pytest.mark.parametrize(
    "part",
    [
        lambda: list(summary(report(HOSTILE))),
        lambda: list(matched_table([site(HOSTILE), Refusal(HOSTILE, HOSTILE)])),
        lambda: list(explanation(Refusal(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,)))),
        lambda: [message(HOSTILE)],
    ],
)
def test_names_cannot_command_the_terminal(part: object) -> None:
    text = text_of(*part())
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]" in text  # not taken for markup either


def test_words_for_numbers() -> None:
    assert file_size(540_842_897) == "540.8 MB"
    assert file_size(2585) == "2.6 kB"
    assert duration(0.0123) == "12.3 ms"
    assert duration(75) == "75.00 s"
    assert faster(2.0, 1.0) == "2.00x faster"
    assert faster(1.0, 1.5) == "1.50x slower"
    assert faster(0.0, 1.0) == "not measurable"
