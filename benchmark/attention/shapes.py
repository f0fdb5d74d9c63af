"""The shapes that are measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from benchmark.attention.case import Case

HEADS: Final = {
    "llama-mha": (32, 32, 128),
    "llama-gqa": (32, 8, 128),
    "smol": (9, 3, 64),
    "encoder": (12, 12, 64),
}
"""Query heads, key/value heads, channels."""

_LONG: Final = {
    4096: {"llama-gqa": (True,), "smol": (False, True), "encoder": (False, True)},
    8192: {"smol": (True,)},
}
"""Above 2048 the float32 peers take seconds: which heads are measured there, and with which masks."""


def prefill_cases(models: Sequence[str] = tuple(HEADS), lengths: Sequence[int] = ()) -> list[Case]:
    """The table, or all masks of the lengths that are asked for."""
    if lengths:
        chosen = [(model, length, mask) for model, length, mask in _all(models, lengths)]
    else:
        chosen = list(_all(models, (128, 512, 2048)))
        chosen += [
            (model, length, mask)
            for length, masks in _LONG.items()
            for model in models
            for mask in masks.get(model, ())
        ]
    return [
        prefill_case(*each) for each in sorted(chosen, key=lambda c: (models.index(c[0]), c[1]))
    ]


def decode_cases(models: Sequence[str] = tuple(HEADS), lengths: Sequence[int] = ()) -> list[Case]:
    """One new token at all lengths of a grouped model, some of the others; batches; several new tokens."""
    cases = []
    if "llama-gqa" in models:
        grown = lengths or (512, 2048, 8192, 32_768, 131_072)
        cases += [decode_case("llama-gqa", 1, 1, length) for length in grown]
        cases += [decode_case("llama-gqa", 8, 1, length) for length in lengths or (512, 2048, 8192)]
        cases += [decode_case("llama-gqa", 1, rows, 8192) for rows in (2, 4, 16)]
    for model in ("llama-mha", "smol", "encoder"):
        if model in models:
            cases += [decode_case(model, 1, 1, length) for length in lengths or (2048, 8192)]
    return cases


def quick_cases() -> list[Case]:
    """A few of either kind, in three minutes with everybody."""
    prefill = [
        prefill_case(model, length, mask)
        for model, length in (("encoder", 512), ("smol", 2048), ("llama-gqa", 512))
        for mask in (False, True)
    ]
    decode = [decode_case("llama-gqa", 1, 1, length) for length in (2048, 8192, 32_768)]
    return [*prefill, *decode, decode_case("llama-gqa", 1, 4, 2048)]


def thread_cases() -> list[Case]:
    """What is measured again with more threads."""
    prefill = [
        prefill_case(model, length, mask)
        for model, length in (
            ("encoder", 512),
            ("encoder", 2048),
            ("llama-gqa", 512),
            ("llama-gqa", 2048),
        )
        for mask in (False, True)
    ]
    decode = [decode_case("llama-gqa", 1, 1, length) for length in (2048, 8192, 32_768)]
    return [*prefill, *decode, decode_case("llama-gqa", 8, 1, 2048)]


def held_cases() -> list[Case]:
    """What is measured again with a lesser instruction set."""
    prefill = [
        prefill_case(model, length, mask) for model, length, mask in _all(tuple(HEADS), (512, 2048))
    ]
    return [*prefill, *(decode_case("llama-gqa", 1, 1, length) for length in (2048, 8192, 32_768))]


def prefill_case(model: str, length: int, causal: bool) -> Case:
    """A sequence that sees itself."""
    heads, kv_heads, channels = HEADS[model]
    return Case(model, 1, heads, kv_heads, channels, length, length, causal)


def decode_case(model: str, batch: int, queries: int, keys: int) -> Case:
    """The newest tokens of a sequence; they see the whole cache and each other's past."""
    heads, kv_heads, channels = HEADS[model]
    return Case(model, batch, heads, kv_heads, channels, queries, keys, True, True)


def _all(models: Sequence[str], lengths: Sequence[int]) -> Iterator[tuple[str, int, bool]]:
    return (
        (model, length, mask) for model in models for length in lengths for mask in (False, True)
    )
