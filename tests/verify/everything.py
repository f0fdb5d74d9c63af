"""A block with everything that the operator knows, in plain operators, and what a matcher should say of it."""

import onnx
from onnx import ModelProto, TensorProto

from qfa_passes.core.site import AttentionSite, Cache, Mask, MaskKind, MaskTerm, Operand
from qfa_passes.core.view import merge_heads, split_heads

SCALE, SOFTCAP, LEFT = 0.3, 2.0, 3

_INTERLEAVED = """
    ku = Unsqueeze(kk, two) ke = Expand(ku, repeats) kr = Reshape(ke, heads)
    vu = Unsqueeze(vv, two) ve = Expand(vu, repeats) vr = Reshape(ve, heads)
"""
TILED = """
    kr = Concat<axis = 1>(kk, kk) vr = Concat<axis = 1>(vv, vv)
"""
"""Query head h reads key head h % Hkv, and not h / G."""
UP_TO_SELF = "below = LessOrEqual(j, p)"
BEFORE_SELF = "below = Less(j, p)"
UP_TO_NEXT = "next = Add(p, one) below = LessOrEqual(j, next)"


def everything(heads: str = _INTERLEAVED, causal: str = UP_TO_SELF) -> ModelProto:
    """The model: 4 query heads, 2 key/value heads, 8 channels; past, lengths, window, bias, mask, softcap and sinks."""
    return onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["": 18]>
        everything (float[B,S,32] q3, float[B,2,N,8] k, float[B,2,N,8] v, float[B,2,P,8] pk, float[B,2,P,8] pv,
                    float[4] sink, int64[B] lens, bool[B,1,1,T] keep, float[4,S,T] bias)
            => (float[B,S,32] o3, float[B,2,R,8] kk, float[B,2,R,8] vv)
        <int64[4] split = {{0, 0, 4, 8}}, int64[3] merge = {{0, 0, 32}}, int64[1] two = {{2}}, int64 zero = {{0}},
         int64 one = {{1}}, int64[5] repeats = {{1, 1, 2, 1, 1}}, int64[4] heads = {{0, 4, -1, 8}},
         int64[3] column = {{1, 2, 3}}, int64[1] row = {{1}}, int64[1] ones = {{1}}, int64[4] sinks = {{1, 4, 1, 1}},
         int64 left = {{{LEFT}}}, float scale = {{{SCALE}}}, float cap = {{{SOFTCAP}}}, float ninf = {{-inf}},
         int64[1] first = {{0}}, int64[1] last = {{-1}}, int64[1] end = {{3}},
         int64[1] four = {{4}}>
        {{
            q4 = Reshape(q3, split) q = Transpose<perm = [0, 2, 1, 3]>(q4)
            kk = Concat<axis = 2>(pk, k) vv = Concat<axis = 2>(pv, v)
            {heads}
            kt = Transpose<perm = [0, 1, 3, 2]>(kr) x = MatMul(q, kt)
            s = Mul(x, scale) sc = Div(s, cap) th = Tanh(sc) capped = Mul(th, cap)
            biased = Add(capped, bias)
            shq = Shape(q3) S = Gather(shq, one) shk = Shape(kk) T = Gather(shk, two) Ts = Squeeze(T, first)
            i0 = Range(zero, S, one) i = Unsqueeze(i0, ones) j = Range(zero, Ts, one)
            l = Unsqueeze(lens, column) shift = Sub(l, S) p = Add(i, shift)
            {causal}
            edge = Sub(p, left) above = GreaterOrEqual(j, edge) within = Less(j, l)
            m1 = And(below, above) m2 = And(m1, within) m = And(m2, keep)
            y = Where(m, biased, ninf)
            sk = Reshape(sink, sinks) b0 = Gather(shq, first) s0 = Gather(shq, row)
            rows = Concat<axis = 0>(b0, four, s0, row) se = Expand(sk, rows)
            z = Concat<axis = -1>(y, se) w = Softmax<axis = -1>(z) ww = Slice(w, first, last, end)
            o = MatMul(ww, vr) ot = Transpose<perm = [0, 2, 1, 3]>(o) o3 = Reshape(ot, merge)
        }}
        """
    )


SITE = AttentionSite(
    name="everything",
    query=Operand("q3", split_heads(4, 8)),
    key=Operand("k"),
    value=Operand("v"),
    output="o3",
    mask=Mask(
        causal=True,
        terms=(MaskTerm("keep", MaskKind.KEEP), MaskTerm("bias", MaskKind.BIAS)),
        queries_at_end=True,
        left_window=LEFT,
        kv_length="lens",
    ),
    scale=SCALE,
    num_heads=4,
    kv_num_heads=2,
    qk_channels=8,
    v_channels=8,
    dtype=TensorProto.FLOAT,
    nodes=("w",),
    exporter="decomposed",
    softcap=SOFTCAP,
    sink="sink",
    cache=Cache("pk", "pv", "kk", "vv"),
    output_views=merge_heads(4, 8),
)
