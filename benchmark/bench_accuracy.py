"""Errors of the kernel against attention in float64, for inputs that are kind and for inputs that are not.

    python -m benchmark.bench_accuracy

Prints the tables of docs/quantization.md: every compute format on whole sequences, full and causal, and every cache
format on the newest tokens of long ones. The inputs are unit-normal but for what their names say:

    normal             nothing
    outlier channels   two channels of K are 30 times larger, so that scores spread by 3 to 5
    outlier tokens     every 97th token of K and V is 30 times larger, and Q 30 times smaller
    diffuse            Q is 50 times smaller: 32768 keys weigh about the same
    diffuse, V mean 1  the same, and V has a mean
    peaked             each query points at one key, which takes nearly all of its weight
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmark.attention.c_abi import Call, KernelError
from benchmark.attention.cache import Cache
from benchmark.attention.case import Case, Operands, make_operands, normalized_error
from benchmark.attention.kernel import prefill_call

Array = npt.NDArray[Any]

OUTLIER: Final = 30.0
CACHES: Final = {
    "float32": ("float", False),
    "int8, token": ("int8", False),
    "int8, channel": ("int8", True),
    "int4": ("int4", False),
    "fp8 e4m3": ("fp8e4m3", False),
    "fp8 e5m2": ("fp8e5m2", False),
}


@dataclass(frozen=True, slots=True)
class Errors:
    """How far an output is from the exact one."""

    squared: float
    """Mean squared error over the mean square."""
    largest: float
    """Largest difference of a number, over the root of the mean square."""
    cosine: float
    """Between both, as vectors."""

    def __str__(self) -> str:
        """The three numbers, in this order."""
        return f"{self.squared:.1e} / {self.largest:.1e} / {self.cosine:.6f}"


def errors(got: Array, wanted: Array) -> Errors:
    """Compares an output with the exact one, both of any shape."""
    actual = got.astype(np.float64)
    cosine = np.vdot(actual, wanted) / (np.linalg.norm(actual) * np.linalg.norm(wanted))
    return Errors(
        normalized_error(got, wanted),
        float(np.abs(actual - wanted).max() / np.sqrt(np.mean(wanted**2))),
        float(cosine),
    )


def exact(case: Case, operands: Operands) -> Array:
    """Attention in float64 of all rows, (B, H, S, D)."""
    result = np.empty(operands.query.shape)
    visible = np.tri(case.queries, case.keys, case.keys - case.queries, dtype=bool)
    for batch, head in np.ndindex(case.batch, case.heads):
        key = operands.key[batch, head // case.group].astype(np.float64)
        value = operands.value[batch, head // case.group].astype(np.float64)
        scores = operands.query[batch, head].astype(np.float64) @ key.T * case.scale
        if case.causal:
            scores[~visible] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        result[batch, head] = weights @ value / weights.sum(axis=-1, keepdims=True)
    return result


def _outlier_channels(case: Case, normal: Operands) -> Operands:
    factor = np.ones(case.channels, np.float32)
    factor[[3, case.channels // 2]] = OUTLIER
    return Operands(normal.query, normal.key * factor, normal.value)


def _outlier_tokens(case: Case, normal: Operands) -> Operands:
    factor = np.ones((case.keys, 1), np.float32)
    factor[::97] = OUTLIER
    return Operands(normal.query / np.float32(OUTLIER), normal.key * factor, normal.value * factor)


def _diffuse(case: Case, normal: Operands) -> Operands:
    return Operands(normal.query * np.float32(0.02), normal.key, normal.value)


def _diffuse_mean(case: Case, normal: Operands) -> Operands:
    return Operands(normal.query * np.float32(0.02), normal.key, normal.value + np.float32(1))


def _peaked(case: Case, normal: Operands) -> Operands:
    # The key that is seen by all queries: none of those behind the first one.
    chosen = np.random.default_rng(7).integers(
        0, case.keys - case.queries + 1, (case.batch, case.heads, case.queries)
    )
    heads = np.arange(case.heads)[None, :, None] // case.group
    aimed = normal.key[np.arange(case.batch)[:, None, None], heads, chosen]
    # About 16 nats for that key and a few for the others.
    return Operands(aimed * np.float32(16 / np.sqrt(case.channels)), normal.key, normal.value)


INPUTS: Final[dict[str, Callable[[Case, Operands], Operands]]] = {
    "normal": lambda _, normal: normal,
    "outlier channels": _outlier_channels,
    "outlier tokens": _outlier_tokens,
    "diffuse": _diffuse,
    "diffuse, V mean 1": _diffuse_mean,
    "peaked": _peaked,
}


def product_cases() -> Iterator[Case]:
    """Whole sequences."""
    for channels in (64, 128):
        for causal in (False, True):
            yield Case("", 1, 4, 2, channels, 1024, 1024, causal)


def cache_cases() -> Iterator[Case]:
    """The newest tokens of long sequences."""
    for channels in (64, 128):
        yield Case("", 1, 8, 2, channels, 4, 8192, True, decode=True)


def long_case(case: Case) -> Case:
    """The same with fewer queries and 32768 keys, for weights that are diffuse."""
    queries = min(case.queries, 64)
    return Case(
        "", 1, case.heads, case.kv_heads, case.channels, queries, 32768, case.causal, case.decode
    )


def products(case: Case, operands: Operands) -> Iterator[tuple[str, Array]]:
    """The outputs of every compute format that the library has, by name."""
    for name, compute, rotate in (
        ("int8", "int8", 0),
        ("int8, rotated", "int8", 1),
        ("fp8 e4m3", "fp8e4m3", 0),
        ("fp8 e5m2", "fp8e5m2", 0),
        ("float", "float", 0),
    ):
        call = prefill_call(case, operands, 1, compute)
        call.request.queries_at_end = int(case.causal)
        call.request.rotation = rotate
        if _runs(call):
            yield name, call.output


def caches(case: Case, operands: Operands) -> Iterator[tuple[str, Array]]:
    """The outputs of a step with every cache format, by name."""
    for name, (kind, per_channel) in CACHES.items():
        cache = Cache(kind, case, operands, per_channel=per_channel)
        cache.fill(case, operands, 1)
        call = cache.step(case, operands, 1)
        if kind == "float":
            call.request.compute = 1
        if _runs(call):
            yield name, call.output


def _runs(call: Call) -> bool:
    """Whether the library knows the format; a later one may know more."""
    try:
        call.prepare()()
    except KernelError as error:
        if "unknown" in str(error):
            return False
        raise
    return True


Rows = dict[tuple[str, ...], dict[str, Errors]]


def measure(
    cases: Sequence[Case], run: Callable[[Case, Operands], Iterator[tuple[str, Array]]]
) -> Rows:
    """Errors by (input, D, mask) and format."""
    rows: Rows = {}
    for name, make in INPUTS.items():
        for usual in cases:
            case = long_case(usual) if name.startswith("diffuse") else usual
            operands = make(case, make_operands(case))
            wanted = exact(case, operands)
            label = (name, str(case.channels), case.mask)
            rows[label] = {form: errors(output, wanted) for form, output in run(case, operands)}
    return rows


def table(rows: Rows) -> str:
    """Markdown: a row for each input, a column for each format."""
    forms = list(next(iter(rows.values())))
    lines = [
        "| input | D | mask | " + " | ".join(forms) + " |",
        "|---|---|---|" + "---|" * len(forms),
    ]
    for label, found in rows.items():
        cells = [*label, *(str(found[form]) for form in forms)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measures everything and prints the tables."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("NMSE / largest error over root mean square / cosine\n")
    print(table(measure(list(product_cases()), products)), end="\n\n", flush=True)
    print(table(measure(list(cache_cases()), caches)))


if __name__ == "__main__":
    main()
