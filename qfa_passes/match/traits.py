"""What kind of attention a site is, and its extents, in words for people."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

import onnx_graphsurgeon as gs

from qfa_passes.core.site import AttentionSite
from qfa_passes.graph.ir import is_op, producer
from qfa_passes.graph.layout import Layout
from qfa_passes.match.context import MatchContext

_ANONYMOUS: Final = re.compile(r"\?\d|unk__")
_VIEWS: Final = ("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast")
_STEPS: Final = 6


def with_traits(context: MatchContext, site: AttentionSite) -> AttentionSite:
    """The site with its kind and its extents B, S and T filled in."""
    layout = Layout.of(site, context.shapes)
    kind = [_self_or_cross(site, layout)]
    if site.v_channels != site.qk_channels and _joins_channels(context.tensors[site.key.tensor]):
        kind.append("MLA")
    extents = (layout.batch, layout.queries, layout.all_keys)
    words = tuple("?" if _ANONYMOUS.search(repr(dim)) else repr(dim) for dim in extents)
    return replace(site, kind=tuple(word for word in kind if word), extents=words)


def _self_or_cross(site: AttentionSite, layout: Layout) -> str:
    """Told from the lengths: the keys of self-attention are those of the queries, behind past ones."""
    if layout.queries == layout.keys or site.mask.causal:  # only one's own keys can come later
        return "self"
    if any(_ANONYMOUS.search(repr(dim)) for dim in (layout.queries, layout.keys)):
        return ""
    past = layout.keys - layout.queries
    grows = layout.queries.value is None and past.non_negative
    return "self" if grows else "cross"


def _joins_channels(key: gs.Tensor) -> bool:
    """True if K is made of two parts side by side, such as one with and one without positions."""
    node: gs.Node | None = producer(key)
    for _ in range(_STEPS):
        if is_op(node, "Concat", "ScatterND"):
            return True
        if not is_op(node, *_VIEWS):
            return False
        node = producer(node.inputs[0])
    return False
