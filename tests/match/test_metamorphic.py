"""Changes of a model that change nothing about its attention."""

import random
from collections.abc import Callable
from dataclasses import replace

import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from qfa_passes.core.site import AttentionSite, Mask, MaskTerm, Operand
from qfa_passes.graph.ir import Graph
from qfa_passes.match import find_sites
from tests.match.blocks import Block, find, refusal_of, site_of
from tests.match.oracle import check_site
from tests.match.test_causal import INDEX
from tests.match.test_layouts import HEADS, PACKED, REPEAT, SPLIT

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


def renamed(model: ModelProto) -> ModelProto:
    """All computed values and nodes get other names."""
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    names: dict[str, str] = {}

    def new(name: str) -> str:
        return name if not name or name in fixed else names.setdefault(name, f"%{len(names)}%")

    for node in model.graph.node:
        node.name = f"node/{new(node.output[0])}"
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = new(tensor.name)
    return model


def shuffled(model: ModelProto) -> ModelProto:
    """Another topological order."""
    nodes, order = list(model.graph.node), random.Random(1)
    ready = {value.name for value in (*model.graph.input, *model.graph.initializer)} | {""}
    del model.graph.node[:]
    while nodes:
        node = order.choice([node for node in nodes if ready.issuperset(node.input)])
        nodes.remove(node)
        ready.update(node.output)
        model.graph.node.append(node)
    return model


def commuted(model: ModelProto) -> ModelProto:
    """Operands of commutative operators change places."""
    for node in model.graph.node:
        if node.op_type in ("Add", "Mul", "And", "Or", "Equal"):
            node.input[:] = list(node.input)[::-1]
    return model


def with_constant_nodes(model: ModelProto) -> ModelProto:
    """Initializers become Constant nodes."""
    nodes = [
        helper.make_node("Constant", [], [tensor.name], name=f"c{tensor.name}", value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes += list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def with_scalar_constants(model: ModelProto) -> ModelProto:
    """Rank-0 initializers become Constant nodes with a plain number."""
    kept = []
    for tensor in list(model.graph.initializer):
        value = numpy_helper.to_array(tensor)
        if value.ndim or value.dtype.kind not in "fi":
            kept.append(tensor)
            continue
        kind = (
            {"value_float": float(value)} if value.dtype.kind == "f" else {"value_int": int(value)}
        )
        model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], **kind))
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def with_detours(model: ModelProto) -> ModelProto:
    """Every float value passes an Identity and a cast to the type that it has."""
    floats = {"q", "k", "v", "qr", "kr", "x", "b", "y", "p", "w", "kt"}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        name = node.output[0]
        nodes.append(node)
        if name in floats:
            node.output[0] = f"{name}_0"
            nodes.append(helper.make_node("Identity", [f"{name}_0"], [f"{name}_1"]))
            nodes.append(helper.make_node("Cast", [f"{name}_1"], [name], to=onnx.TensorProto.FLOAT))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def with_dead_code(model: ModelProto) -> ModelProto:
    """A node whose result nobody uses."""
    model.graph.node.append(helper.make_node("Relu", ["p"], ["unused"]))
    return model


CHANGES: dict[str, Callable[[ModelProto], ModelProto]] = {
    function.__name__: function
    for function in (
        renamed,
        shuffled,
        commuted,
        with_constant_nodes,
        with_scalar_constants,
        with_detours,
        with_dead_code,
    )
}


def facts(site: AttentionSite) -> AttentionSite:
    """A site without its names."""

    def nameless(operand: Operand) -> Operand:
        return replace(operand, tensor="", path=())

    terms = tuple(MaskTerm("", term.kind, term.fill) for term in site.mask.terms)
    return replace(
        site,
        name="",
        query=nameless(site.query),
        key=nameless(site.key),
        value=nameless(site.value),
        output="",
        mask=Mask(site.mask.causal, terms),
        nodes=(),
    )


def test_the_block_itself() -> None:
    site = check_site(rich(), {"S": 6, "T": 6})
    assert (site.num_heads, site.kv_num_heads, site.qk_channels, site.v_channels) == (4, 2, 8, 6)
    assert site.scale == pytest.approx(8**-0.5)
    assert (site.mask.causal, [term.tensor for term in site.mask.terms]) == (True, ["keep"])
    assert site.notes == ("2-fold repeated heads folded", "NaN guard folded")


@pytest.mark.parametrize("change", CHANGES)
def test_same_site_after(change: str) -> None:
    changed = CHANGES[change](rich())
    onnx.checker.check_model(changed)
    assert facts(check_site(changed, {"S": 6, "T": 6})) == facts(site_of(rich()))


def test_all_changes_at_once() -> None:
    changed = rich()
    for change in (with_detours, commuted, with_constant_nodes, renamed, shuffled):
        changed = change(changed)
    assert facts(check_site(changed, {"S": 6, "T": 6})) == facts(site_of(rich()))


def test_two_blocks_that_share_their_mask_are_two_sites() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    pair (float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[S,T] m) => (float[B,4,S,6] a, float[B,4,S,6] b)
    {
        kt = Transpose<perm=[0,1,3,2]>(k)
        s1 = MatMul(q, kt)  m1 = Add(s1, m)  p1 = Softmax(m1)  a = MatMul(p1, v)
        s2 = MatMul(q, kt)  m2 = Add(s2, m)  p2 = Softmax(m2)  b = MatMul(p2, v)
    }
    """
    sites = find(onnx.parser.parse_model(text))
    assert [site.output for site in sites if isinstance(site, AttentionSite)] == ["a", "b"]


def test_a_long_model_is_matched_in_linear_time() -> None:
    """300 blocks and a chain of 5,000 nodes."""
    block = Block().model()
    graph = block.graph
    for number in range(1, 300):
        for node in Block().model().graph.node:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [name if name in "qkv" else f"{name}_{number}" for name in node.input]
            copy.output[:] = [f"{name}_{number}" for name in node.output]
            copy.name = f"{node.name}_{number}"
            graph.node.append(copy)
        graph.output.add(name=f"o_{number}")
    for number in range(5_000):
        graph.node.append(
            helper.make_node("Relu", [f"r{number - 1}" if number else "q"], [f"r{number}"])
        )
    graph.output.add(name="r4999")
    sites = find_sites(Graph(onnx.shape_inference.infer_shapes(block)))
    assert len(sites) == 300 and all(isinstance(site, AttentionSite) for site in sites)


def test_doubling_adds_are_refused_in_linear_time() -> None:
    doubled = " ".join(f"x{n + 1} = Add(x{n}, x{n})" for n in range(20))
    block = Block(scores="x0 = MatMul(q, kt)", mask=f"{doubled} y = Add(x20, x20)")
    assert "adds the scores to themselves" in refusal_of(block.model()).reason
