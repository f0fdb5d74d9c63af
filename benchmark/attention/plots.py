"""Growth of time over S and over T, drawn (needs matplotlib)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmark.attention.case import Case
from benchmark.attention.results import Lane

_PREFILL: Final = {
    "kernel int8": "ours, int8",
    "torch float32": "torch float32",
    "torch bfloat16": "torch bfloat16",
    "OpenVINO bf16": "OpenVINO bf16",
    "OpenVINO int8 (FakeQuantize)": "OpenVINO int8",
    "ORT GroupQueryAttention": "ORT GQA float32",
    "ORT GroupQueryAttention int8 cache": "ORT GQA int8",
    "ORT unfused QDQ": "ORT QDQ",
}
_DECODE: Final = {
    "kernel int4 cache": "ours, int4 cache",
    "kernel int8 cache": "ours, int8 cache",
    "reading the int8 cache": "reading the int8 cache",
    "torch bfloat16, grouped": "torch bfloat16, grouped",
    "OpenVINO u8 cache": "OpenVINO u8 cache",
    "ORT GroupQueryAttention int8 cache": "ORT GQA int8 cache",
    "ORT GroupQueryAttention": "ORT GQA float32",
}


def plot_growth(lanes: Sequence[Lane], path: Path) -> None:
    """Draws the first lane: prefill over S and decoding over T, a line for each contestant."""
    import matplotlib as mpl

    mpl.use("Agg")
    # The same file from the same numbers.
    mpl.rcParams.update({"svg.hashsalt": "qfa", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    model = _most_common(case for case in _cases(lanes) if not case.decode)
    lane = lanes[0]
    _draw(
        left,
        lane,
        _PREFILL,
        lambda case: not case.decode and case.model == model and case.causal,
        lambda case: case.queries,
    )
    left.set(title=f"prefill, causal, {model}, {lane.name}", xlabel="S = T")
    _draw(
        right,
        lane,
        _DECODE,
        lambda case: case.decode and case.model == "llama-gqa" and case.queries == case.batch == 1,
        lambda case: case.keys,
    )
    right.set(title=f"one new token, llama-gqa, {lane.name}", xlabel="T")
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylabel("milliseconds")
        axes.grid(visible=True, which="both", alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _draw(
    axes: Any,
    lane: Lane,
    names: dict[str, str],
    fits: Callable[[Case], bool],
    extent: Callable[[Case], int],
) -> None:
    for name, label in names.items():
        points = sorted(
            (extent(result.case), 1e3 * result.timings[name].middle)
            for result in lane.cases
            if fits(result.case) and result.right(name)
        )
        if points:
            ours = label.startswith("ours")
            axes.plot(*zip(*points, strict=True), "o-", label=label, linewidth=2.5 if ours else 1.2)


def _cases(lanes: Iterable[Lane]) -> list[Case]:
    return [result.case for result in next(iter(lanes)).cases]


def _most_common(cases: Iterable[Case]) -> str:
    """The heads that were measured at most lengths; of equals the larger."""
    lengths: dict[str, set[int]] = {}
    for case in cases:
        lengths.setdefault(case.model, set()).add(case.queries)
    preferred = sorted(lengths, key=lambda model: model != "llama-gqa")
    return max(preferred, key=lambda model: len(lengths[model]), default="")
