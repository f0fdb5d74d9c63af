"""What each choice of the int8 recipe is worth on synthetic data; as a module, it prints tables.

Every table varies one choice and keeps everything else exact, in float64.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from qfa_passes.quant import hadamard
from qfa_passes.quant.attention import Masking, attention_float64, attention_int8
from qfa_passes.quant.int8 import Granularity, fake_quant
from tests.reference.attention_cases import nmse, unit_normal

Array = npt.NDArray[np.float64]
Row = tuple[str, list[float]]

SHAPES = [
    (1, 1, 1, 16, 16, 64, 64),
    (1, 4, 4, 64, 64, 64, 64),
    (1, 4, 1, 64, 64, 64, 64),
    (1, 2, 2, 1, 2048, 64, 64),
    (1, 2, 2, 64, 2048, 64, 64),
    (1, 2, 2, 64, 512, 128, 128),
    (1, 2, 2, 64, 512, 256, 256),
    (1, 2, 2, 64, 512, 40, 40),
]


def by_shape() -> Iterator[Row]:
    """Yields the error of the whole operator, not causal and causal, for each shape."""
    for shape in SHAPES:
        q, k, v = unit_normal(shape)
        errors = []
        for causal in (False, True):
            masking, scale = Masking(causal=causal), shape[5] ** -0.5
            exact = attention_float64(q, k, v, scale=scale, masking=masking)
            errors.append(nmse(attention_int8(q, k, v, scale=scale, masking=masking), exact))
        names = ("B", "H", "Hkv", "S", "T", "D", "Dv")
        label = " ".join(f"{name}{size}" for name, size in zip(names, shape, strict=True))
        yield label, errors


def by_weight_scale() -> Iterator[Row]:
    """Yields the error of quantized softmax weights alone, for three sizes of their step.

    Key 0 is a sink that takes about half of the attention, as first tokens do.
    """
    for length in (256, 1024, 4096, 16384):
        rng = np.random.default_rng(0)
        scores = rng.standard_normal((32, length))
        scores[:, 0] = np.log(length)
        value = rng.standard_normal((length, 64))
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        exact = weights @ value / weights.sum(axis=-1, keepdims=True)
        yield (
            f"T={length}",
            [
                nmse(_rounded_attention(weights, value, steps, block), exact)
                for steps, block in ((127, length), (255, length), (255, 64))
            ],
        )


def _rounded_attention(weights: Array, value: Array, steps: int, block: int) -> Array:
    rounded = np.zeros_like(weights)
    for start in range(0, weights.shape[1], block):
        part = weights[:, start : start + block]
        step = part.max(axis=-1, keepdims=True) / steps
        rounded[:, start : start + block] = np.rint(part / step) * step
    return rounded @ value / rounded.sum(axis=-1, keepdims=True)


Recipe = Callable[[Array, Array], tuple[Array, Array]]


def _rounding(granularity: Granularity, mean: bool = False, rotate: bool = False) -> Recipe:
    def apply(q: Array, k: Array) -> tuple[Array, Array]:
        if mean:
            k = k - k.mean(axis=-2, keepdims=True)
        if rotate:
            q, k = hadamard.transform(q) / 8.0, hadamard.transform(k) / 8.0
        rounded = [fake_quant(x, granularity).astype(np.float64) for x in (q, k)]
        return rounded[0], rounded[1]

    return apply


QK_RECIPES: dict[str, Recipe] = {
    "per tensor": _rounding(Granularity.TENSOR),
    "per token": _rounding(Granularity.TOKEN),
    "per token, K mean": _rounding(Granularity.TOKEN, mean=True),
    "per token, Hadamard": _rounding(Granularity.TOKEN, rotate=True),
    "per token, both": _rounding(Granularity.TOKEN, mean=True, rotate=True),
}


def by_qk_recipe() -> Iterator[Row]:
    """Yields the error of quantized Q and K alone, for each recipe of QK_RECIPES."""
    rng = np.random.default_rng(3)
    for label, gain, shift in (
        ("unit normal", 1.0, 0.0),
        ("two channels of K 30 times larger", 30.0, 0.0),
        ("two channels of K shifted by 30", 1.0, 30.0),
    ):
        q, k, v = (rng.standard_normal((1, 4, 256, 64)) for _ in range(3))
        k[..., [5, 40]] = k[..., [5, 40]] * gain + shift
        q[..., [5, 40]] /= gain
        exact = attention_float64(q, k, v, scale=0.125)
        yield (
            label,
            [
                nmse(attention_float64(*recipe(q, k), v, scale=0.125), exact)
                for recipe in QK_RECIPES.values()
            ],
        )


def by_future_key() -> Iterator[Row]:
    """Yields the error of the first half of causal rows when keys of the second half grow."""
    for gain in (1.0, 30.0):
        q, k, v = (x.astype(np.float64) for x in unit_normal((1, 2, 2, 128, 128, 64, 64), 4))
        k[:, :, 64:] *= gain
        masking = Masking(causal=True)
        exact = attention_float64(q, k, v, scale=0.125, masking=masking)
        errors = []
        for granularity in (Granularity.TENSOR, Granularity.TOKEN):
            rounded = fake_quant(k, granularity)
            output = attention_float64(q, rounded, v, scale=0.125, masking=masking)
            errors.append(nmse(output[:, :, :64], exact[:, :, :64]))
        yield f"later keys {gain:g} times larger", errors


def print_table(head: list[str], rows: Iterator[Row]) -> None:
    """Prints a Markdown table."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for label, errors in rows:
        print("| " + " | ".join([label, *(f"{error:.1e}" for error in errors)]) + " |")


def main() -> None:
    """Prints the tables of docs/quantization.md."""
    print_table(["shape", "NMSE", "NMSE, causal"], by_shape())
    print_table(["context", "row, 1/127", "row, 1/255", "block of 64, 1/255"], by_weight_scale())
    print_table(["data", *QK_RECIPES], by_qk_recipe())
    print_table(["data", "K per tensor", "K per token"], by_future_key())


if __name__ == "__main__":
    main()
