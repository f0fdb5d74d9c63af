"""Random views between the products, and masks in any of them: whatever the matcher claims holds in ONNX Runtime."""

from collections.abc import Sequence
from math import prod

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qfa_passes.core.site import AttentionSite
from tests.match.blocks import Block, find
from tests.match.oracle import attention, made_up, names_of, normalized, run

FEW = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
FRONTS = [(), (4,), (2, 3), (1, 4), (2, 2, 3), (3, 1, 2)]
ROWS, KEYS, CHANNELS = 4, 6, 2


def _vector(name: str, values: Sequence[int]) -> str:
    return f"int64[{len(values)}] {name} = {{{', '.join(map(str, values))}}}"


def _splits(draw: st.DrawFn, size: int) -> list[int]:
    """Some factors of a number, in order."""
    parts = []
    while size > 1 and draw(st.booleans()):
        parts.append(draw(st.sampled_from([d for d in range(2, size + 1) if size % d == 0])))
        size //= parts[-1]
    return [*parts, size]


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    """A block whose scores and weights take random shapes, with masks on the way."""
    front = draw(st.sampled_from(FRONTS))
    shape = [*front, ROWS, KEYS]
    constants, inputs, nodes, name = ["float low = {-1e9}"], [], [], "x"

    def reshaped(to: list[int]) -> None:
        nonlocal name
        constants.append(_vector(f"s{len(constants)}", to))
        nodes.append(f"z{len(constants)} = Reshape({name}, s{len(constants) - 1})")
        name = f"z{len(constants)}"

    for number in range(draw(st.integers(1, 3))):
        lead = _splits(draw, prod(front)) if draw(st.booleans()) else [prod(front)]
        rows = _splits(draw, ROWS) if draw(st.booleans()) else [ROWS]
        keys = _splits(draw, KEYS) if draw(st.booleans()) else [KEYS]
        shape = [*lead, *rows, *keys]
        reshaped(shape)
        own = [extent if draw(st.booleans()) else 1 for extent in shape]
        while len(own) > 1 and own[0] == 1 and draw(st.booleans()):
            own = own[1:]
        kind = draw(st.sampled_from(["bias", "keep", "drop", "none"]))
        dims = ",".join(map(str, own))
        if kind == "bias":
            inputs.append(f"float[{dims}] m{number}")
            nodes.append(f"y{number} = Add({name}, m{number})")
        elif kind != "none":
            inputs.append(f"bool[{dims}] m{number}")
            if kind == "keep":
                nodes.append(f"y{number} = Where(m{number}, {name}, low)")
            else:  # the first key stays visible in every row
                nodes.append(
                    f"n{number} = Not(m{number}) y{number} = Where(n{number}, low, {name})"
                )
        name = name if kind == "none" else f"y{number}"
    last = draw(
        st.sampled_from(
            [[*front, ROWS, KEYS], [prod(front), ROWS, KEYS], [prod(front) * ROWS, KEYS]]
        )
    )
    reshaped(list(last))
    after = draw(st.sampled_from([(), front, (prod(front),), (1, prod(front))]))
    after = after if prod(after) == prod(front) else front
    constants.append(_vector("weights_shape", [*after, ROWS, KEYS]))
    constants.append(_vector("v_shape", [*after, KEYS, CHANNELS]))
    dims = ",".join(map(str, front))
    comma = "," if front else ""
    turned = draw(st.booleans())
    perm = [*range(len(after)), len(after) + 1, len(after)]
    products = "o = MatMul(w, v)"
    if turned:
        products = (
            f"""wt = Transpose<perm={perm}>(w) vt = Transpose<perm={perm}>(v) o = MatMul(vt, wt)"""
        )
    return Block(
        inputs=", ".join(
            [
                f"float[{dims}{comma}{ROWS},3] q, float[{dims}{comma}3,{KEYS}] kt",
                f"float[{dims}{comma}{KEYS},{CHANNELS}] v0",
                *inputs,
            ]
        ),
        constants=", ".join(constants),
        before="v = Reshape(v0, v_shape)",
        keys="",
        mask=" ".join([*nodes, f"y = Identity({name})"]),
        weights="w = Reshape(p, weights_shape)",
        product=products,
        outputs=f"float[{','.join(map(str, [*after, CHANNELS, ROWS] if turned else [*after, ROWS, CHANNELS]))}] o",
    )


def claim_holds(block: Block) -> bool:
    """True if the block is matched; fails if what is said of it is not so."""
    model = block.model()
    (found,) = find(model)
    if not isinstance(found, AttentionSite):
        return False
    feeds = made_up(model, {})
    expected = run(model, feeds, ["o"])["o"]
    got = attention(found, run(normalized(model), feeds, names_of(found)))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    return True


@FEW
@given(blocks())
def test_any_views_of_scores_and_weights(block: Block) -> None:
    claim_holds(block)
