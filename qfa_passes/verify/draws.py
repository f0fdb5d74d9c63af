"""Random inputs for the part of a model that a site replaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import helper

from qfa_passes.core.site import AttentionSite, MaskKind, MaskTerm
from qfa_passes.verify.widen import HALVES

Array = npt.NDArray[Any]

_SHOWN: Final = 0.7
"""Share of keys that a random mask leaves visible."""
_CAPPED: Final = 0.25
"""Scores spread this part of a softcap: far enough for it to show, near enough to keep the softmax soft."""


def draw(
    site: AttentionSite,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, int],
    lengths: tuple[int, int],
    generator: np.random.Generator,
    *,
    hidden: bool,
) -> dict[str, Array]:
    """Makes one set of inputs: unit-normal Q, K and V whose scaled scores spread by about 1, and random masks.

    Args:
        site: The site.
        shapes: Of the inputs, by name.
        types: ONNX element types by name; half floats are drawn as float32.
        lengths: The least and the greatest number of keys that a batch entry may have.
        generator: Of random numbers.
        hidden: Some rows see nothing: the first mask hides everything from the last batch or query.
    """
    terms = {term.tensor: term for term in site.mask.terms}
    values: dict[str, Array] = {}
    for name, shape in shapes.items():
        kind = _dtype(types[name])
        if name == site.mask.kv_length:
            values[name] = generator.integers(lengths[0], lengths[1] + 1, shape).astype(kind)
        elif name in terms and not _is_operand(site, name):
            values[name] = _mask(terms[name], shape, kind, generator)
        else:
            values[name] = _plain(shape, kind, generator)
    if site.query.tensor in values and not _is_shared(site):
        spread = max(1.0, _CAPPED * site.softcap) / (abs(site.scale) * np.sqrt(site.qk_channels))
        query = values[site.query.tensor]
        values[site.query.tensor] = (query * spread).astype(query.dtype)
    if hidden:
        for name, term in terms.items():
            if name in values and _hide(term, values[name]):
                break
    return values


def _dtype(kind: int) -> np.dtype[Any]:
    if kind in HALVES:
        return np.dtype(np.float32)
    return np.dtype(helper.tensor_dtype_to_np_dtype(kind))


def _is_operand(site: AttentionSite, name: str) -> bool:
    return name in (site.query.tensor, site.key.tensor, site.value.tensor)


def _is_shared(site: AttentionSite) -> bool:
    return site.query.tensor in (site.key.tensor, site.value.tensor)


def _plain(shape: tuple[int, ...], kind: np.dtype[Any], generator: np.random.Generator) -> Array:
    if kind.kind == "f":
        return generator.standard_normal(shape).astype(kind)
    if kind.kind == "b":
        return generator.random(shape) < _SHOWN
    return generator.integers(0, 2, shape).astype(kind)


def _mask(
    term: MaskTerm, shape: tuple[int, ...], kind: np.dtype[Any], generator: np.random.Generator
) -> Array:
    if term.kind is MaskKind.BIAS:
        bias = generator.standard_normal(shape)
        return np.where(generator.random(shape) < _SHOWN, bias, -np.inf).astype(kind)
    shown = generator.random(shape) < _SHOWN
    return (shown if term.kind is MaskKind.KEEP else ~shown).astype(kind)


def _hide(term: MaskTerm, values: Array) -> bool:
    """Hides every key from the last entry of the first axis that has several; False if there is none."""
    for axis, extent in enumerate(values.shape[:-1]):
        if extent > 1:
            hiding = {MaskKind.BIAS: -np.inf, MaskKind.KEEP: False, MaskKind.DROP: True}
            values[(slice(None),) * axis + (-1,)] = hiding[term.kind]
            return True
    return False
