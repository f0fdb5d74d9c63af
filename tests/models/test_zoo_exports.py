"""The zoo exported afresh: every block is fused in float, and the outputs stay torch's. Heavy; `-m models`."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the extra [models] is not installed")
pytest.importorskip("transformers", reason="the extra [models] is not installed")
pytest.importorskip("diffusers", reason="the extra [models] is not installed")

from benchmark.bench_match import sound_sets
from benchmark.match_ours import ours_float
from benchmark.match_task import Task
from models.zoo.case import architectures
from models.zoo.export import WRITERS, export_one

pytestmark = [pytest.mark.models, pytest.mark.timeout(600)]

# What exporters cannot write, or write so that nobody can run it; docs/zoo.md says why.
NOT_EXPORTED = {
    "cohere": ("ts17_eager", "ts17_sdpa"),
    "deepseek_v2": tuple(WRITERS),
    "falcon": ("dyn23_sdpa",),
    "falcon_alibi": tuple(WRITERS),
    "gpt_oss": ("dyn18_eager",),
    "moonshine": ("ts17_eager", "ts17_sdpa"),
}
# How many blocks are refused, and a word of the reason; docs/zoo.md says more.
REFUSED = {"longt5": (2, "no view leads from"), "vits": (2, "is used by")}
# The dynamo exporter takes ten seconds a model: a few kinds of attention stand for all.
BY_DYNAMO = (
    "bert",
    "deepseek_v3",
    "gemma3",
    "llama_past",
    "sam_vision",
    "swin",
    "t5",
    "whisper_decoder",
)

CASES = [
    (name, writer.name)
    for name, arch in architectures().items()
    for writer in WRITERS.values()
    if writer.attention in arch.attentions and (not writer.exporter.is_dynamo or name in BY_DYNAMO)
]


@pytest.mark.parametrize(("name", "writer"), CASES)
def test_fresh_export_is_fused_and_right(name: str, writer: str, tmp_path: Path) -> None:
    record = export_one(architectures()[name], WRITERS[writer], tmp_path)
    runs = not record.failure and sound_sets(record.runtime) != ()
    assert runs == (writer not in NOT_EXPORTED.get(name, ())), record
    if not runs:
        return
    path = tmp_path / f"{record.name}.onnx"
    answer = ours_float(Task(str(path), name, record.blocks, sound_sets(record.runtime)))
    assert not answer.wrong, answer
    refused, reason = REFUSED.get(name, (0, ""))
    assert answer.fused == record.blocks - refused, answer
    assert sum(reason in text for text in answer.refusals) >= refused
