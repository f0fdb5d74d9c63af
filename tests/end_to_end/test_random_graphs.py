"""Random models with attention, made of the parts that exporters use: original, Q/DQ graph and fused graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from qfa_passes import api
from tests.end_to_end.outcomes import float_outputs, outputs

CHANNELS = 16


@dataclass(frozen=True)
class Recipe:
    """One block around which a small model is built.

    Attributes:
        heads: H.
        groups: H / Hkv.
        layout: How Q, K and V leave their projections.
        scale: Where the factor stands.
        mask: Kind of mask.
        guard: Whether NaN is replaced behind the softmax.
        merged: Whether the product is brought back to (B, S, H * D).
        detour: Whether Identity nodes stand between.
    """

    heads: int
    groups: int
    layout: str
    scale: str
    mask: str
    guard: bool
    merged: bool
    detour: bool

    def model(self) -> ModelProto:
        """One projection for Q, K and V, the block, a residual sum."""
        kv = self.heads // self.groups
        wide, narrow = self.heads * CHANNELS, kv * CHANNELS
        total = wide + 2 * narrow
        constants = f"""
            int64[3] sizes = {{{wide}, {narrow}, {narrow}}}, int64[4] q_split = {{0, 0, {self.heads}, {CHANNELS}}},
            int64[4] k_split = {{0, 0, {kv}, {CHANNELS}}}, int64[1] two = {{2}}, int64[1] one = {{1}},
            int64 zero = {{0}}, int64[5] repeats = {{1, 1, {self.groups}, 1, 1}},
            int64[4] heads = {{0, {self.heads}, -1, {CHANNELS}}},
            int64[3] merge = {{0, 0, {wide}}}, float f = {{0.25}}, float root = {{0.5}}, float inverse = {{4.0}},
            float ninf = {{-inf}}, float low = {{-3.4e38}}, float none = {{0.0}}, int64 step = {{1}},
            int64[1] first = {{0}}
        """
        body = ["p0 = MatMul(h, weight) q3, k3, v3 = Split<axis = 2>(p0, sizes)"]
        for letter, split in (("q", "q_split"), ("k", "k_split"), ("v", "k_split")):
            body.append(
                f"{letter}4 = Reshape({letter}3, {split}) {letter} = Transpose<perm = [0, 2, 1, 3]>({letter}4)"
            )
        body.append(self._keys())
        body.append(self._scores())
        body.append(self._masked())
        body.append("w0 = Softmax<axis = -1>(y)")
        body.append(
            "bad = IsNaN(w0) w = Where(bad, none, w0)" if self.guard else "w = Identity(w0)"
        )
        body.append("o = MatMul(w, vr)")
        if self.merged:
            body.append("ot = Transpose<perm = [0, 2, 1, 3]>(o) out = Reshape(ot, merge)")
        else:
            body.append("out = Identity(o)")
        shape = f"B,S,{wide}" if self.merged else f"B,{self.heads},S,{CHANNELS}"
        text = f"""
            <ir_version: 8, opset_import: ["": 17]>
            random (float[B,S,24] h, bool[B,S] keep) => (float[{shape}] out)
            <{constants}> {{ {" ".join(body)} }}
        """
        proto = onnx.parser.parse_model(text)
        weight = np.random.default_rng(1).standard_normal((24, total)) / np.sqrt(24)
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(weight.astype(np.float32), "weight")
        )
        return proto

    def _keys(self) -> str:
        repeat = """
            ku = Unsqueeze(k, two) ke = Expand(ku, repeats) kr = Reshape(ke, heads)
            vu = Unsqueeze(v, two) ve = Expand(vu, repeats) vr = Reshape(ve, heads)
        """
        both = repeat if self.groups > 1 else "kr = Identity(k) vr = Identity(v)"
        if self.layout == "einsum":
            return both
        if self.layout == "turned first":
            return both + " kt = Transpose<perm = [0, 1, 3, 2]>(kr)"
        return both + " kt0 = Transpose<perm = [0, 1, 3, 2]>(kr) kt = Identity(kt0)"

    def _scores(self) -> str:
        product = (
            'x = Einsum<equation = "bhsd,bhtd->bhst">({q}, {k})'
            if self.layout == "einsum"
            else "x = MatMul({q}, {k})"
        )
        key = "kr" if self.layout == "einsum" else "kt"
        if self.scale == "split":
            return f"qs = Mul(q, root) ks = Mul({key}, root) {product.format(q='qs', k='ks')} s = Identity(x)"
        if self.scale == "query":
            return f"qs = Mul(q, f) {product.format(q='qs', k=key)} s = Identity(x)"
        after = "s = Div(x, inverse)" if self.scale == "divided" else "s = Mul(f, x)"
        return f"{product.format(q='q', k=key)} {after}"

    def _masked(self) -> str:
        detour = "s1 = Identity(s) si = Identity(s1)" if self.detour else "si = Identity(s)"
        shape = "hs = Shape<start = 1, end = 2>(h) S = Squeeze(hs, first) i = Range(zero, S, step)"
        column = f"{shape} c = Unsqueeze(i, one)"
        padding = "keep4 = Unsqueeze(keep, middle)"
        masks = {
            "none": "y = Identity(si)",
            "causal": f"{column} m = LessOrEqual(i, c) y = Where(m, si, ninf)",
            "causal added": f"{column} m = LessOrEqual(i, c) b = Where(m, none, low) y = Add(b, si)",
            "padding": f"{padding} y = Where(keep4, si, ninf)",
            "padding added": f"{padding} b = Where(keep4, none, low) y = Add(si, b)",
            "both": f"{column} {padding} m0 = LessOrEqual(i, c) m = And(m0, keep4) y = Where(m, si, ninf)",
        }
        text = f"{detour} {masks[self.mask]}"
        if "middle" in text:
            text = "middle = Constant<value_ints = [1, 2]>() " + text
        return text


RECIPES = st.builds(
    Recipe,
    heads=st.sampled_from([2, 4, 6]),
    groups=st.sampled_from([1, 2]),
    layout=st.sampled_from(["plain", "turned first", "einsum"]),
    scale=st.sampled_from(["after", "divided", "query", "split"]),
    mask=st.sampled_from(["none", "causal", "causal added", "padding", "padding added", "both"]),
    guard=st.booleans(),
    merged=st.booleans(),
    detour=st.booleans(),
)


def check(recipe: Recipe) -> None:
    """All three forms of the model against the original, on inputs that give no NaN."""
    model = recipe.model()
    random = np.random.default_rng(0)
    keep = random.random((2, 13)) < 0.7
    keep[:, 0] = True  # with a causal mask too, every query sees a key
    feeds = {"h": random.standard_normal((2, 13, 24)).astype(np.float32), "keep": keep}
    (wanted,) = float_outputs(model, feeds)
    assert np.isfinite(wanted).all()
    for format, stop_after, bound in (
        ("float", "fuse", 1e-10),
        ("int8", "fuse", 2e-3),
        ("int8", "rewrite", 5e-3),
    ):
        result = api.optimize(model, format=format, stop_after=stop_after, verify="off")
        if stop_after == "fuse":
            assert [site.status.value for site in result.report.sites] == ["fused"], recipe
        (got,) = outputs(result.model, feeds, library=stop_after == "fuse")
        assert got.shape == wanted.shape
        assert np.sum((got - wanted) ** 2) / np.sum(wanted**2) < bound, (recipe, format, stop_after)


@settings(
    max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(RECIPES)
def test_random_models(recipe: Recipe) -> None:
    check(recipe)


@pytest.mark.slow
@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
@given(RECIPES)
def test_many_random_models(recipe: Recipe) -> None:
    check(recipe)
