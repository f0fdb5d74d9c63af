"""Writes the golden copies anew from a folder of fresh exports.

    python -m models.zoo export DIR && python -m tests.zoo.regenerate DIR

One exporter for each architecture, in turn, so that every pair of neighbours in style is written differently; and a few
that are told apart by more than that. What is expected is what `inspect` finds now: look at the difference in git.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import onnx

import qfa_passes
from models.zoo.record import Record, read_records
from models.zoo.samples import load_samples
from qfa_passes.core.site import AttentionSite
from tests.zoo.golden_models import FOLDER, Golden, without_weights, write_goldens

_TURN = ("ts17_eager", "ts17_sdpa", "dyn18_eager", "dyn18_sdpa", "dyn23_sdpa")
# Branches, caches, and one architecture by everybody.
_MORE = (
    "bert_optimum",
    "bert_ts17_sdpa",
    "llama_dyn18_sdpa",
    "llama_optimum",
    "llama_past_ts17_sdpa",
    "llama_ts17_sdpa",
    "marian_optimum_decoder_with_past",
    "t5_optimum_decoder_merged",
)


def main() -> None:
    """Chooses, strips, matches and writes."""
    folder = Path(sys.argv[1])
    records = read_records(folder)
    for old in FOLDER.glob("*.onnx.gz"):
        old.unlink()
    write_goldens([_golden(folder, records[name]) for name in chosen(records)])


def chosen(records: dict[str, Record]) -> list[str]:
    """Names of the exports that are kept."""
    by_arch: dict[str, list[Record]] = {}
    for record in records.values():
        if record.runtime.startswith("ok") and record.exporter in _TURN:
            by_arch.setdefault(record.arch, []).append(record)
    names = set(_MORE) & records.keys()
    for index, arch in enumerate(sorted(by_arch)):
        turn = [*_TURN[index % len(_TURN) :], *_TURN[: index % len(_TURN)]]
        names.add(min(by_arch[arch], key=lambda record: turn.index(record.exporter)).name)
    return sorted(names)


def _golden(folder: Path, record: Record) -> Golden:
    model = onnx.load(folder / f"{record.name}.onnx")
    FOLDER.mkdir(exist_ok=True)
    # Without a time inside, the same graph gives the same bytes.
    packed = gzip.compress(without_weights(model).SerializeToString(), mtime=0)
    (FOLDER / f"{record.name}.onnx.gz").write_bytes(packed)
    known = {value.name for value in model.graph.input}
    sample = load_samples(folder / f"{record.name}.npz")[0]
    inputs = {}
    for name, array in sample.inputs.items():
        if name not in known:
            continue
        inputs[name] = {"shape": list(array.shape), "type": str(array.dtype)}
        if array.dtype.kind != "f":
            inputs[name]["values"] = np.ravel(array).tolist()
    found = qfa_passes.inspect(Golden(record.name, record.blocks, 0, (), inputs).model())
    refusals = tuple(entry.reason for entry in found if not isinstance(entry, AttentionSite))
    return Golden(record.name, record.blocks, len(found) - len(refusals), refusals, inputs)


if __name__ == "__main__":
    main()
