"""A key that equal blocks share: the layers of a model are proven once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256

from onnx import NodeProto, TensorProto

from qfa_passes.core.site import AttentionSite, Cache, Operand
from qfa_passes.graph.dims import Dim
from qfa_passes.verify.region import Region, Source


class _Names:
    """Numbers for names, in order of appearance."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __call__(self, name: str) -> str:
        return f"#{self._numbers.setdefault(name, len(self._numbers))}" if name else ""


def region_key(source: Source, region: Region, site: AttentionSite) -> bytes:
    """Digest of everything that a proof depends on, free of the names of values, nodes and symbols."""
    digest = sha256()
    for part in _parts(source, region, site):
        digest.update(repr(part).encode())
    return digest.digest()


def _parts(source: Source, region: Region, site: AttentionSite) -> Iterator[object]:
    value, symbol = _Names(), _Names()
    yield _nameless(site, value)
    for name in (*site.reads, *region.inputs, *region.others):
        shape = source.shapes.shapes.get(name)
        dims = None if shape is None else [_dim(dim, symbol) for dim in shape]
        yield value(name), source.types.get(name), dims
    for name in region.shaped:
        content = source.shapes.contents[name]
        items = [_dim(item, symbol) for item in content.items]
        yield value(name), source.types.get(name), content.scalar, items
    for tensor in region.constants:  # those with bytes in the store are equal only if they are one
        yield value(tensor.name), tensor.data_type, tuple(tensor.dims), _content(tensor)
    for node in region.nodes:
        yield node.domain, node.op_type, [value(name) for name in node.input]
        yield [value(name) for name in node.output], _attributes(node)
        shapes = [source.shapes.shapes.get(name) for name in node.output]
        yield [None if s is None else [_dim(dim, symbol) for dim in s] for s in shapes]
    yield [value(name) for name in region.outputs]


def _content(tensor: TensorProto) -> bytes:
    anonymous = TensorProto()
    anonymous.CopyFrom(tensor)
    anonymous.ClearField("name")
    return anonymous.SerializeToString(deterministic=True)


def _attributes(node: NodeProto) -> list[bytes]:
    return sorted(item.SerializeToString(deterministic=True) for item in node.attribute)


def _dim(dim: Dim, symbol: _Names) -> list[tuple[list[str], int]]:
    return [([symbol(name) for name in monomial], factor) for monomial, factor in dim.terms.items()]


def _nameless(site: AttentionSite, value: _Names) -> AttentionSite:
    def operand(given: Operand) -> Operand:
        return replace(given, tensor=value(given.tensor), path=())

    terms = tuple(replace(term, tensor=value(term.tensor)) for term in site.mask.terms)
    length = value(site.mask.kv_length or "") or None
    cache = site.cache
    if cache is not None:
        names = (cache.past_key, cache.past_value, cache.present_key, cache.present_value)
        past_key, past_value, *present = (value(name or "") for name in names)
        cache = Cache(past_key, past_value, *(name or None for name in present))
    return replace(
        site,
        name="",
        query=operand(site.query),
        key=operand(site.key),
        value=operand(site.value),
        output=value(site.output),
        mask=replace(site.mask, terms=terms, kv_length=length),
        nodes=(),
        kind=(),
        extents=(),
        notes=(),
        sink=value(site.sink or "") or None,
        cache=cache,
    )
