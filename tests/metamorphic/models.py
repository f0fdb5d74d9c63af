"""Models with attention of many kinds, and near misses, in ONNX text."""

from collections.abc import Callable

import onnx
from onnx import ModelProto

from tests.match.blocks import Block
from tests.match.test_causal import INDEX
from tests.match.test_layouts import HEADS, PACKED, REPEAT, SPLIT
from tests.verify.everything import everything
from tests.verify.test_proof_mutations import WINDOW

CONSTANTS = """
    int64[4] split_q = {0, 0, 4, 8}, int64[4] split_k = {0, 0, 2, 8}, int64[4] split_v = {0, 0, 2, 6},
    int64[1] a0 = {0}, int64[1] a1 = {1}, int64[1] a2 = {2}, int64[1] a3 = {3}, int64[1] one = {1}, int64[1] n2 = {2},
    int64[1] n4 = {4}, int64[1] n6 = {6}, int64[1] n8 = {8}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2},
    float zero = {0.0}, float ninf = {-inf}, float root = {0.59460355}
"""


def rich() -> ModelProto:
    """Grouped heads, a split scale, a causal mask, padding and a guard against NaN."""
    index = (
        INDEX.replace("qs =", "qz =")
        .replace("ks =", "kz =")
        .replace("(qs,", "(qz,")
        .replace("(ks,", "(kz,")
    )
    return Block(
        inputs=f"{PACKED}, bool[B,1,1,T] keep",
        constants=CONSTANTS,
        before=f"{SPLIT} {HEADS} {REPEAT} qr = Mul(q, root) kr = Mul(k, root)",
        keys="kt = Transpose<perm=[0,1,3,2]>(kr)",
        scores="x = MatMul(qr, kt)",
        mask=f"{index} m1 = LessOrEqual(j, i) m = And(m1, keep) b = Where(m, zero, ninf) y = Add(x, b)",
        weights="bad = IsNaN(p) w = Where(bad, zero, p)",
    ).model()


def packed() -> ModelProto:
    """One projection for Q, K and V, and an additive mask made from flags, as older encoders have it."""
    return onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17]>
        packed (float[B,S,96] h, int64[B,S] flags) => (float[B,S,32] o3)
        <int64[5] split = {0, 0, 3, 4, 8}, int64[3] merge = {0, 0, 32}, int64 i0 = {0}, int64 i1 = {1}, int64 i2 = {2},
         float root = {2.8284271}, float one = {1.0}, float low = {-10000.0}, int64[2] front = {1, 2}>
        {
            p5 = Reshape(h, split) t = Transpose<perm = [2, 0, 3, 1, 4]>(p5)
            q = Gather<axis = 0>(t, i0) k = Gather<axis = 0>(t, i1) v = Gather<axis = 0>(t, i2)
            kt = Transpose<perm = [0, 1, 3, 2]>(k) x = MatMul(q, kt) s = Div(x, root)
            f = Cast<to = 1>(flags) u = Unsqueeze(f, front) inv = Sub(one, u) bias = Mul(inv, low)
            y = Add(s, bias) w = Softmax<axis = -1>(y) o = MatMul(w, v)
            ot = Transpose<perm = [0, 2, 1, 3]>(o) o3 = Reshape(ot, merge)
        }
        """
    )


def standard() -> ModelProto:
    """The operator of the standard, with past keys and a mask."""
    return onnx.parser.parse_model(
        """
        <ir_version: 11, opset_import: ["": 23]>
        standard (float[B,4,S,8] q, float[B,2,N,8] k, float[B,2,N,8] v, bool[B,1,S,T] m, float[B,2,P,8] pk,
                  float[B,2,P,8] pv) => (float[B,4,S,8] o, float[B,2,T,8] kk, float[B,2,T,8] vv)
        { o, kk, vv = Attention<scale = 0.4, softcap = 20.0>(q, k, v, m, pk, pv) }
        """
    )


def contributed() -> ModelProto:
    """An operator of com.microsoft."""
    return onnx.parser.parse_model(
        """
        <ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
        contributed (float[2,S,32] q, float[2,T,32] k, float[2,T,32] v) => (float[2,S,32] o)
        { o = com.microsoft.MultiHeadAttention<num_heads = 4, scale = 0.4>(q, k, v) }
        """
    )


def branch() -> ModelProto:
    """A block in each branch of an If; one of them with a mask."""
    body = "kt = Transpose<perm = [0, 1, 3, 2]>(k) x = MatMul(q, kt) {mask} p = Softmax<axis = -1>({x})"
    plain, masked = body.format(mask="", x="x"), body.format(mask="y = Add(x, m)", x="y")
    return onnx.parser.parse_model(
        f"""
        <ir_version: 8, opset_import: ["": 17]>
        branch (bool c, float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[B,1,S,T] m) => (float[B,4,S,6] o)
        {{
            o = If (c) <
                then_branch = one () => (float[B,4,S,6] a) {{ {plain} a = MatMul(p, v) }},
                else_branch = two () => (float[B,4,S,6] b) {{ {masked} b = MatMul(p, v) }}
            >
        }}
        """
    )


def scaled_per_head() -> ModelProto:
    """Cosine attention: every head has a temperature of its own."""
    return Block(
        constants="float[4,1,1] f = {1.0, 2.0, 3.0, 4.0}",
        before="""q2 = ReduceL2<axes = [-1]>(q) qn = Div(q, q2) k2 = ReduceL2<axes = [-1]>(k) kn = Div(k, k2)""",
        keys="kt = Transpose <perm = [0, 1, 3, 2]> (kn)",
        scores="x = MatMul(qn, kt)",
        mask="y = Mul(x, f)",
    ).model()


MODELS: dict[str, Callable[[], ModelProto]] = {
    "rich": rich,
    "everything": everything,
    "packed": packed,
    "window": WINDOW.model,
    "scaled per head": scaled_per_head,
    "standard": standard,
    "contributed": contributed,
    "branch": branch,
}

NEAR_MISSES: dict[str, Block] = {
    "softmax over the queries": Block(softmax="p = Softmax <axis = 2> (y)"),
    "a factor for every score": Block(
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[S,T] f",
        mask="y = Mul(x, f)",
    ),
    "a factor for every score that is constant": Block(
        inputs="float[B,4,2,8] q, float[B,4,2,8] k, float[B,4,2,6] v",
        constants="float[2,2] f = {1.0, 2.0, 3.0, 4.0}",
        mask="y = Mul(x, f)",
        outputs="float[B,4,2,6] o",
    ),
    "queries of one batch for all": Block(
        inputs="float[1,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v"
    ),
    "a mask after the softmax": Block(
        inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[S,T] m",
        weights="w = Mul(p, m)",
    ),
    "a bias after the softmax": Block(constants="float f = {0.1}", weights="w = Add(p, f)"),
    "dropout while training": Block(
        constants="float ratio = {0.5}, bool training = {1}",
        weights="w = Dropout(p, ratio, training)",
    ),
    "a softmax of another domain": Block(
        softmax="p = my.domain.Softmax <axis = -1> (y)", domains=', "my.domain": 1'
    ),
    "a product of another domain": Block(
        scores="x = my.domain.MatMul(q, kt)", domains=', "my.domain": 1'
    ),
    "scores as an output": Block(outputs="float[B,4,S,6] o, float[B,4,S,T] x"),
    "weights as an output": Block(outputs="float[B,4,S,6] o, float[B,4,S,T] p"),
    "weights that are read twice": Block(
        weights="w = Identity(p) n = ReduceSum(p)", outputs="float[B,4,S,6] o, float[] n"
    ),
}
