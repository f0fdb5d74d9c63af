"""What a model's attention is, without the names of anything."""

from collections import Counter
from dataclasses import replace

from onnx import ModelProto

from qfa_passes import api
from qfa_passes.core.site import AttentionSite, Cache, Operand

Facts = Counter[AttentionSite]


def facts_of(model: ModelProto) -> Facts:
    """Sites without names, with how often each is there."""
    found = api.inspect(model)
    return Counter(_nameless(entry) for entry in found if isinstance(entry, AttentionSite))


def refusals_of(model: ModelProto) -> int:
    """Number of candidates that are refused."""
    return sum(not isinstance(entry, AttentionSite) for entry in api.inspect(model))


def _nameless(site: AttentionSite) -> AttentionSite:
    def operand(given: Operand) -> Operand:
        return replace(given, tensor="", path=())

    terms = sorted((replace(term, tensor="") for term in site.mask.terms), key=repr)
    cache = site.cache and Cache(
        "", "", site.cache.present_key and "", site.cache.present_value and ""
    )
    return replace(
        site,
        name="",
        query=operand(site.query),
        key=operand(site.key),
        value=operand(site.value),
        output="",
        mask=replace(site.mask, terms=tuple(terms), kv_length=site.mask.kv_length and ""),
        nodes=(),
        sink=site.sink and "",
        cache=cache,
        extents=(),  # words: how well they are told depends on what the model declares
    )
