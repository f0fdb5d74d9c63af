"""What each format costs: the bytes of a cache and the error of attention over it, and that of attention in fp8."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from qfa_passes.core.formats import CacheFormat
from qfa_passes.quant import hadamard
from qfa_passes.quant.attention import Quantization, attention_float64, attention_int8
from qfa_passes.quant.cache import CacheCoding, KeyValueCache
from qfa_passes.quant.float8 import E4M3, E5M2, fake_quant
from tests.reference.attention_cases import nmse

CHANNELS = 64
Array = npt.NDArray[Any]


def data() -> dict[str, tuple[Array, Array, Array]]:
    """Returns Q, K and V of four kinds, by name; 2 heads, 8 queries, 1024 tokens."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, 2, 8, CHANNELS)).astype(np.float32)
    key, value = rng.standard_normal((2, 1, 2, 1024, CHANNELS)).astype(np.float32)
    loud, shifted, values = key.copy(), key.copy(), value.copy()
    loud[..., :2] *= 30
    shifted[..., :2] += 30
    values[..., :2] *= 30
    return {
        "unit normal": (query, key, value),
        "two channels of K 30 times larger": (query, loud, value),
        "two channels of K shifted by 30": (query, shifted, value),
        "two channels of V 30 times larger": (query, key, values),
    }


def codings(key: Array, value: Array) -> dict[str, CacheCoding]:
    """Returns the formats, by name; steps per channel are those that these very tokens need."""
    steps = [np.abs(x).max(axis=(0, 2)) / np.float32(127) for x in (key, value)]
    mean = key.mean(axis=(0, 2))
    return {
        "int8 per token": CacheCoding(form=CacheFormat.INT8),
        "int8 per token, rotated, K mean": CacheCoding(
            form=CacheFormat.INT8, rotate=True, k_mean=mean
        ),
        "int8 per channel": CacheCoding(
            form=CacheFormat.INT8, key_scale=steps[0], value_scale=steps[1]
        ),
        "fp8 e4m3": CacheCoding(form=CacheFormat.FP8E4M3),
        "fp8 e5m2": CacheCoding(form=CacheFormat.FP8E5M2),
        "int4": CacheCoding(form=CacheFormat.INT4),
        "int4, rotated, K mean": CacheCoding(form=CacheFormat.INT4, rotate=True, k_mean=mean),
    }


def bits_per_number(cache: KeyValueCache) -> float:
    """Returns what a number of K or V takes, scales included, but for scales of (Hkv, D) and open keys."""
    tensors = {name: x for name, x in cache.tensors.items() if name != "key_open"}
    return sum(x.nbytes for x in tensors.values()) * 8 / (2 * 2 * 1024 * CHANNELS)


def errors() -> Iterator[tuple[str, float, dict[str, float]]]:
    """Yields the name of a format, its bits and, by data, the NMSE of attention."""
    kinds = data()
    for name in codings(*next(iter(kinds.values()))[1:]):
        found, bits = {}, 0.0
        for kind, (query, key, value) in kinds.items():
            cache = KeyValueCache.of(codings(key, value)[name], key, value)
            bits = bits_per_number(cache)
            turned, scale = query, CHANNELS**-0.5
            if cache.coding.rotate:
                turned = hadamard.transform(query)
                scale /= hadamard.block_length(CHANNELS)
            output = attention_float64(turned, *cache.decode(), scale=scale)
            exact = attention_float64(query, key, value, scale=CHANNELS**-0.5)
            found[kind] = nmse(output, exact)
        yield name, bits, found


def compute_errors() -> Iterator[tuple[str, dict[str, float]]]:
    """Yields the name of a format of the products and, by data, the NMSE of attention in it."""
    formats: dict[str, Callable[[Array, Array, Array], Array]] = {
        "int8": partial(attention_int8, scale=CHANNELS**-0.5),
        "int8, rotated": partial(
            attention_int8, scale=CHANNELS**-0.5, quantization=Quantization(rotate=True)
        ),
    }
    for name, form in (("fp8 e4m3", E4M3), ("fp8 e5m2", E5M2)):
        formats[name] = lambda *arrays, form=form: attention_float64(
            *(fake_quant(x, form) for x in arrays), scale=CHANNELS**-0.5
        )
    for name, attend in formats.items():
        found = {}
        for kind, arrays in data().items():
            exact = attention_float64(*arrays, scale=CHANNELS**-0.5)
            found[kind] = nmse(attend(*arrays), exact)
        yield name, found


def main() -> None:
    """Prints the tables of docs/quantization.md."""
    print("| cache | bits | " + " | ".join(data()) + " |")
    print("|---|---|" + "---|" * len(data()))
    for name, bits, found in errors():
        print(f"| {name} | {bits:.2f} | " + " | ".join(f"{x:.1e}" for x in found.values()) + " |")
    print("\n| products | " + " | ".join(data()) + " |")
    print("|---|" + "---|" * len(data()))
    for name, by_data in compute_errors():
        print(f"| {name} | " + " | ".join(f"{x:.1e}" for x in by_data.values()) + " |")


if __name__ == "__main__":
    main()
