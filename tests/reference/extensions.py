"""What softcap, sinks and windows do to the error of int8 attention, on unit-normal data."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qfa_passes.quant.attention import Masking, attention_float64, attention_int8
from tests.reference.attention_cases import nmse, unit_normal


@dataclass(frozen=True)
class Case:
    """A name for the table, the factor of the scores, and what else the operator is asked for."""

    name: str
    scale: float = 0.125
    masking: Masking = field(default_factory=Masking)
    more: dict[str, Any] = field(default_factory=dict)

    def error(self) -> float:
        """Returns the NMSE of int8 against float64 attention."""
        arrays = unit_normal((1, 2, 1, 64, 512, 64, 64))
        request: dict[str, Any] = {"scale": self.scale, "masking": self.masking, **self.more}
        return nmse(attention_int8(*arrays, **request), attention_float64(*arrays, **request))


def cases() -> Iterator[Case]:
    """Yields the cases of the table."""
    end = Masking(causal=True, queries_at_end=True)
    for scale in (0.125, 0.5):
        yield Case(f"plain, scores {scale / 0.125:g}x", scale, end)
        for softcap in (50.0, 5.0, 1.0):
            name = f"softcap {softcap:g}, scores {scale / 0.125:g}x"
            yield Case(name, scale, end, {"softcap": softcap})
    for logit in (0.0, 4.0, 8.0):
        yield Case(f"sink of {logit:g} nats", masking=end, more={"sink": np.full(2, logit)})
    for window in (16, 128):
        masking = Masking(causal=True, queries_at_end=True, left_window=window)
        yield Case(f"window of {window} keys", masking=masking)


def main() -> None:
    """Prints the table of docs/quantization.md."""
    print("| data | NMSE |\n|---|---|")
    for case in cases():
        print(f"| {case.name} | {case.error():.1e} |")


if __name__ == "__main__":
    main()
