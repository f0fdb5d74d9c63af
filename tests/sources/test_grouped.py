"""com.microsoft::GroupQueryAttention: the written-out form against ONNX Runtime's kernel, prompts and single steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from qfa_passes.core.site import AttentionSite
from qfa_passes.graph.contrib.grouped import INPUTS
from tests.sources.nodes import TOLERANCE, Array, FusedNode, find, floats, normalized, refused, run

H, HKV, D, LONGEST = 4, 2, 16, 32


@dataclass
class Step:
    """One run: S new tokens per batch, a buffer of P places, and how long each batch is after it."""

    rows: int
    room: int
    lengths: Sequence[int]
    total: int


PROMPT = Step(5, 0, (5, 5), 5)
PADDED_PROMPT = Step(5, 0, (5, 3), 5)
PROMPT_IN_BUFFER = Step(5, 9, (5, 3), 5)
DECODE = Step(1, 6, (7, 7), 7)
RAGGED_DECODE = Step(1, 6, (7, 4), 7)
DECODE_IN_BUFFER = Step(1, 11, (7, 4), 7)
CHUNK = Step(3, 6, (9,), 9)
CHUNK_IN_BUFFER = Step(3, 12, (9,), 9)
STEPS = {
    "prompt": PROMPT,
    "padded prompt": PADDED_PROMPT,
    "prompt in a buffer": PROMPT_IN_BUFFER,
    "decode": DECODE,
    "ragged decode": RAGGED_DECODE,
    "decode in a buffer": DECODE_IN_BUFFER,
    "chunk": CHUNK,
    "chunk in a buffer": CHUNK_IN_BUFFER,
}


@dataclass
class Grouped:
    """A node and what it is asked to do."""

    attrs: dict[str, Any] = field(default_factory=dict)
    packed: bool = False
    rotary: bool = False
    past: bool = True
    more: dict[str, Array] = field(default_factory=dict)
    kind: Any = np.float32

    def feeds(self, step: Step) -> dict[str, Array]:
        batch = len(step.lengths)
        feeds = {
            "query": floats(batch, step.rows, (H + 2 * HKV) * D if self.packed else H * D),
            "seqlens_k": np.array(step.lengths, np.int32) - 1,
            "total_sequence_length": np.array(step.total, np.int32),
        }
        if not self.packed:
            feeds["key"], feeds["value"] = (
                floats(batch, step.rows, HKV * D, seed=seed) for seed in (1, 2)
            )
        if self.past:
            for name, seed in (("past_key", 3), ("past_value", 4)):
                feeds[name] = floats(batch, HKV, step.room, D, seed=seed)
        if self.rotary:
            feeds["cos_cache"], feeds["sin_cache"] = (
                floats(LONGEST, D // 2, seed=seed) for seed in (5, 6)
            )
        return {
            name: feed.astype(self.kind) if feed.dtype == np.float32 else feed
            for name, feed in (feeds | self.more).items()
        }

    def node(self, step: Step) -> FusedNode:
        feeds = self.feeds(step)
        shapes: dict[str, Any] = {
            name: ("B", "S", feeds[name].shape[2])
            for name in ("query", "key", "value")
            if name in feeds
        }
        shapes |= dict.fromkeys(("past_key", "past_value"), ("B", HKV, "P", D))
        shapes["seqlens_k"] = ("B",)
        shapes["attention_bias"] = ("A", "N", "S", "T")
        shapes["position_ids"] = ("B", "S")
        attrs = {"num_heads": H, "kv_num_heads": HKV, "do_rotary": int(self.rotary), **self.attrs}
        outputs = {"output": 3, "present_key": 4, "present_value": 4}
        return FusedNode(
            "GroupQueryAttention", INPUTS, feeds, shapes, attrs, outputs, kind=self.kind
        )

    def check(self, *steps: Step) -> AttentionSite:
        """One normalized model is right in all runs."""
        source = self.node(steps[0]).model()
        result = normalized(source)
        assert all(node.domain in ("", "ai.onnx") for node in result.graph.node)
        for step in steps:
            feeds = self.feeds(step)
            before, after = run(source, feeds), run(result, feeds)
            tolerance = TOLERANCE if self.kind == np.float32 else 2e-2
            for old, new in zip(before[1:], after[1:], strict=True):
                np.testing.assert_allclose(new, old, rtol=tolerance, atol=tolerance)
            for batch, length in enumerate(step.lengths):
                # With a window and a softcap or sinks, a query that is padding has no defined result.
                padded = (
                    step.rows == step.total
                    and {"local_window_size", "softcap"} <= self.attrs.keys()
                )
                rows = length if padded else step.rows
                np.testing.assert_allclose(
                    after[0][batch, :rows], before[0][batch, :rows], rtol=tolerance, atol=tolerance
                )
        (site,) = find(result)
        assert isinstance(site, AttentionSite), site
        assert (site.num_heads, site.kv_num_heads) == (H, HKV)
        assert (site.qk_channels, site.v_channels) == (D, D)
        assert site.exporter == "com.microsoft::GroupQueryAttention"
        return site


VARIANTS = {
    "plain": Grouped(),
    "packed": Grouped(packed=True),
    "rotary": Grouped(rotary=True),
    "rotary of neighbours": Grouped({"rotary_interleaved": 1}, rotary=True),
    "packed rotary": Grouped(packed=True, rotary=True),
    "softcap": Grouped({"softcap": 1.5}),
    "window of 1": Grouped({"local_window_size": 1}),
    "window of 3": Grouped({"local_window_size": 3}),
    "window of 50": Grouped({"local_window_size": 50}),
    "smooth": Grouped({"smooth_softmax": 1}),
    "sinks": Grouped(more={"head_sink": floats(H)}),
    "smooth sinks": Grouped({"smooth_softmax": 1}, more={"head_sink": floats(H)}),
    "scale": Grouped({"scale": 0.7}),
    "all keys": Grouped({"causal": 0}),
    "everything": Grouped(
        {"softcap": 2.0, "local_window_size": 3, "scale": 0.4},
        packed=True,
        rotary=True,
        more={"head_sink": floats(H)},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str) -> None:
    variant = VARIANTS[name]
    mask = variant.check(*STEPS.values()).mask
    if variant.attrs.get("causal", 1):
        assert mask.causal and mask.queries_at_end and mask.kv_length
        assert len(mask.terms) == 1
        assert mask.left_window == max(variant.attrs.get("local_window_size", 0), 0) - 1


@pytest.mark.parametrize("name", VARIANTS)
def test_without_a_past(name: str) -> None:
    variant = VARIANTS[name]
    site = Grouped(variant.attrs, variant.packed, variant.rotary, False, variant.more).check(
        PROMPT, PADDED_PROMPT, Step(4, 0, (4, 4), 4)
    )
    if name in ("plain", "packed", "rotary"):
        assert site.mask.causal


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("shape", ((1, 1), (1, H), (2, 1), (2, H)))
def test_bias(step: str, shape: tuple[int, int]) -> None:
    run_ = STEPS[step]
    batch = min(shape[0], len(run_.lengths))
    bias = floats(batch, shape[1], run_.rows, run_.total)
    Grouped({"softcap": 1.5}, more={"attention_bias": bias}).check(run_)


@pytest.mark.parametrize("step", STEPS)
def test_positions(step: str) -> None:
    run_ = STEPS[step]
    places = (
        np.random.default_rng(0).integers(0, 8, (len(run_.lengths), run_.rows)).astype(np.int64)
    )
    Grouped(rotary=True, more={"position_ids": places}).check(run_)


def test_partial_rotary() -> None:
    more = {"cos_cache": floats(LONGEST, 8), "sin_cache": floats(LONGEST, 8, seed=1)}
    wide = Grouped({"do_rotary": 1}, more=more)
    wide.check(PROMPT, RAGGED_DECODE)


def test_half() -> None:
    Grouped(rotary=True, kind=np.float16).check(PROMPT, RAGGED_DECODE)


WINDOW_STEPS = {
    "short prompt": Step(3, 7, (3, 3), 3),
    "long prompt": Step(12, 7, (12, 12), 12),
    "chunk longer than the cache": Step(9, 7, (21,), 21),
    **{f"decode at {length}": Step(1, 7, (length, length - 1), length) for length in range(4, 15)},
}


@pytest.mark.parametrize("window", (3, 6, 7))
@pytest.mark.parametrize("name", WINDOW_STEPS)
def test_window_cache(window: int, name: str) -> None:
    """Only the places that hold a key are compared; the others are not specified."""
    attrs = {"sliding_window_cache": 1, "local_window_size": window}
    case, step = Grouped(attrs, packed=True, rotary=True), WINDOW_STEPS[name]
    source = case.node(step).model()
    result = normalized(source)
    feeds = case.feeds(step)
    before, after = run(source, feeds), run(result, feeds)
    group = step.room - window + 1
    for batch, length in enumerate(step.lengths):
        rows = length if step.rows == step.total else step.rows
        np.testing.assert_allclose(
            after[0][batch, :rows], before[0][batch, :rows], rtol=TOLERANCE, atol=TOLERANCE
        )
        held = length - group * max(0, -((step.room - length) // group))
        for old, new in zip(before[1:], after[1:], strict=True):
            assert new.shape == old.shape
            np.testing.assert_allclose(
                new[batch, :, :held], old[batch, :, :held], rtol=TOLERANCE, atol=TOLERANCE
            )
    (site,) = find(result)
    assert isinstance(site, AttentionSite), site
    assert site.mask.causal and site.mask.kv_length and site.mask.left_window == window - 1


def test_refused() -> None:
    scale = {"k_scale": np.ones(1, np.float32), "v_scale": np.ones(1, np.float32)}
    kinds = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR"}
    assert "quantized" in refused(Grouped(kinds, more=scale).node(DECODE))
    norms = {"q_norm_weight": floats(D), "k_norm_weight": floats(D)}
    assert "q_norm_weight" in refused(Grouped(more=norms).node(DECODE))
    scores = Grouped({"qk_output": 1}).node(DECODE)
    scores.outputs = {**scores.outputs, "scores": 4}
    assert "output_qk" in refused(scores)
