"""Random blocks: whatever the matcher claims of them holds in ONNX Runtime."""

from math import prod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.match.blocks import Block, site_of
from tests.match.oracle import attention, check_site, made_up, names_of, normalized, run
from tests.match.test_causal import CONSTANTS, INDEX, SQUARE

FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
AXES = st.permutations(range(4))


@st.composite
def shapes(draw: st.DrawFn, size: int) -> list[int]:
    """A shape of a few axes with this many elements."""
    dims: list[int] = []
    while size > 1 and len(dims) < 4:
        dims.append(draw(st.sampled_from([d for d in range(1, size + 1) if size % d == 0])))
        size //= dims[-1]
    return [*dims, size]


@st.composite
def chains(draw: st.DrawFn) -> tuple[str, str, list[int]]:
    """Constants and nodes of a random chain of views from k0 to k, and the shape of k."""
    shape = list(draw(st.sampled_from([(2, 4, 4, 2), (4, 2, 4, 2), (2, 1, 4, 4), (1, 2, 2, 4)])))
    first, constants, nodes, name = list(shape), [], [], "k0"
    for number in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["transpose", "reshape", "expand"]))
        following = f"c{number}"
        if kind == "transpose":
            perm = draw(st.permutations(range(len(shape))))
            nodes.append(f"{following} = Transpose<perm={perm}>({name})")
            shape = [shape[axis] for axis in perm]
        else:
            if kind == "reshape" or prod(shape) > 64:
                shape, op = draw(shapes(prod(shape))), "Reshape"
            else:
                place = draw(st.integers(0, len(shape)))
                split = [*shape[:place], 1, *shape[place:]]
                constants.append(_vector(f"u{number}", split))
                nodes.append(f"v{number} = Reshape({name}, u{number})")
                name, op = f"v{number}", "Expand"
                shape = [*shape[:place], 2, *shape[place:]]
            constants.append(_vector(f"s{number}", shape))
            nodes.append(f"{following} = {op}({name}, s{number})")
        name = following
    size = prod(shape)
    rows = draw(st.sampled_from([d for d in (1, 2, 4) if size % (d * 8) == 0]))
    last = [2, 4, rows, size // (8 * rows)]
    constants.append(_vector("last", last))
    nodes.append(f"k = Reshape({name}, last)")
    return (
        ", ".join([*constants, f"int64[1] first = {{{first[0]}}}"]),
        " ".join(nodes),
        [*first, *last],
    )


def _vector(name: str, values: list[int]) -> str:
    return f"int64[{len(values)}] {name} = {{{', '.join(map(str, values))}}}"


@FEW
@given(chains(), st.permutations(range(4)))
def test_views_of_keys_and_values(chain: tuple[str, str, list[int]], perm: list[int]) -> None:
    constants, nodes, dims = chain
    first, (batch, heads, _, channels) = dims[:4], dims[4:]
    extents = ",".join(map(str, first))
    block = Block(
        inputs=f"float[{batch},{heads},3,{channels}] q, float[{extents}] k0",
        constants=constants,
        before=nodes,
        keys="kt = Transpose<perm=[0,1,3,2]>(k)",
        product="o = MatMul(w, k)",
        outputs=f"float[{batch},{heads},3,{channels}] o",
    )
    check_site(block.model(), {})


PLACES = ["i", "j", "i+", "j+", "i-", "S", "T", "d", "z", "end", "far", "wide"]
CONDITIONS = st.recursive(
    st.builds(
        "{0}({1}, {2})".format,
        st.sampled_from(["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"]),
        st.sampled_from(PLACES),
        st.sampled_from(PLACES),
    ),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(["And", "Or"]), inner, inner), st.tuples(st.just("Not"), inner)
    ),
    max_leaves=4,
)
TERMS = {
    "i+": "ip",
    "j+": "jp",
    "i-": "im",
    "S": "S",
    "T": "T",
    "d": "d",
    "z": "i0",
    "end": "ie",
    "far": "if",
    "wide": "jw",
}


def _written(tree: object, nodes: list[str]) -> str:
    name = f"m{len(nodes)}"
    if isinstance(tree, str):
        op, _, rest = tree.partition("(")
        left, right = (TERMS.get(item, item) for item in rest.rstrip(")").split(", "))
        nodes.append(f"{name}l = {op}({left}, {right}) {name} = Expand({name}l, st)")
        return name
    assert isinstance(tree, tuple)
    inner = [_written(part, nodes) for part in tree[1:]]
    name = f"m{len(nodes)}"
    nodes.append(f"{name} = {tree[0]}({', '.join(inner)})")
    return name


@FEW
@given(CONDITIONS)
def test_masks_of_indices(tree: object) -> None:
    nodes: list[str] = []
    mask = _written(tree, nodes)
    block = Block(
        inputs=SQUARE.replace(
            "float[B,4,S,8] k, float[B,4,S,6] v", "float[B,4,T,8] k, float[B,4,T,6] v"
        ),
        constants=CONSTANTS,
        mask=f"""{INDEX} s1 = Slice(qs, a2, a3) t1 = Slice(ks, a2, a3) st = Concat<axis=0>(s1, t1)
            ip = Add(i, i1) jp = Add(j, i1) im = Sub(i, i1) d = Sub(T, S) ie = Add(i, d) if = Sub(ie, i3)
            jw = Add(j, i2) {" ".join(nodes)}
            y = Where({mask}, x, ninf)""",
    )
    model = block.model()
    site = site_of(model)
    plain = normalized(model)
    for queries, keys in ((1, 1), (4, 4), (3, 6), (6, 3), (1, 9)):
        feeds = made_up(model, {"B": 1, "S": queries, "T": keys})
        expected = run(model, feeds, ["o"])["o"]
        got = attention(site, run(plain, feeds, names_of(site)))
        # A row that sees nothing is NaN in the model and zero in the operator.
        assert got == pytest.approx(np.nan_to_num(expected), rel=1e-4, abs=1e-4)
