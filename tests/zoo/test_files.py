"""What lies beside an export, and how a result is held against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmark.bench_match import sound_sets
from benchmark.match_growth import repeated_layers
from benchmark.match_peers import model_types
from models.zoo.record import Record, append_record, read_records
from models.zoo.samples import Sample, load_samples, relative_difference, save_samples


def test_the_last_record_of_a_name_counts(tmp_path: Path) -> None:
    assert read_records(tmp_path) == {}
    for blocks in (2, 3):
        append_record(tmp_path, Record("bert_ts17_eager", "bert", "ts17_eager", blocks))
    assert [record.blocks for record in read_records(tmp_path).values()] == [3]


def test_samples_come_back_in_order(tmp_path: Path) -> None:
    samples = [
        Sample({"x/y": np.arange(3) + index}, {"out": np.ones((index, 2), np.float32)})
        for index in range(3)
    ]
    save_samples(tmp_path / "s.npz", samples)
    for expected, actual in zip(samples, load_samples(tmp_path / "s.npz"), strict=True):
        np.testing.assert_array_equal(actual.inputs["x/y"], expected.inputs["x/y"])
        assert actual.outputs["out"].shape == expected.outputs["out"].shape


def test_differences_are_relative_and_missing_numbers_are_infinite() -> None:
    expected = np.array([1.0, -1.0, 1.0, -1.0]) * 0.1
    assert relative_difference(expected + 0.01, expected) == pytest.approx(0.1)
    assert relative_difference(np.full(4, np.nan), expected) == np.inf
    assert relative_difference(np.ones((0, 2)), np.ones((0, 2))) == 0


@pytest.mark.parametrize(
    ("runtime", "sets"),
    [("ok", None), ("ok | Fail: x", (0,)), ("differs from torch by 1e-2 | ok", (1,)), ("Fail", ())],
)
def test_only_sets_that_the_export_computes_right_are_compared(
    runtime: str, sets: tuple[int, ...] | None
) -> None:
    assert sound_sets(runtime) == sets


def test_peers_are_told_a_fitting_kind_of_model() -> None:
    assert model_types("bert") == ["bert"]
    assert model_types("gpt_neox") == ["gpt_neox", "bert"]
    assert model_types("wav2vec2_conformer") == ["conformer", "bert"]
    assert model_types("llama_past") == ["phi", "bert"]


def test_repeated_layers_have_the_size_and_the_blocks_they_say() -> None:
    model, blocks = repeated_layers(500, 4)
    assert 500 <= len(model.graph.node) < 525
    assert [node.op_type for node in model.graph.node].count("Softmax") == blocks
