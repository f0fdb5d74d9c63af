"""Q/DQ pairs that a quantizer left inside attention."""

import pytest

from tests.match.blocks import PLAIN_INPUTS, Block, refusal_of
from tests.match.oracle import check_site

STEPS = """float step = {0.01}, uint8 zero = {131}, int8 middle = {3}, float third = {0.00390625}, uint8 none = {0},
    float root = {0.3535534}, float wide = {0.03}, float coarse = {0.15}"""


def pair(name: str, result: str, step: str = "step", zero: str = "zero") -> str:
    """Rounds ``name``."""
    return f"{result}c = QuantizeLinear({name}, {step}, {zero}) {result} = DequantizeLinear({result}c, {step}, {zero})"


def test_all_that_static_quantization_rounds() -> None:
    """The operands are off centre, so that the block reads their rounded values; scores and weights are not rounded."""
    block = Block(
        constants=STEPS,
        before=f"{pair('q', 'qd', 'wide')} {pair('k', 'kd', 'wide')} {pair('v', 'vd', 'wide')}",
        keys=f"kr = Transpose<perm=[0,1,3,2]>(kd) {pair('kr', 'kt', 'wide')}",
        scores=f"x0 = MatMul(qd, kt) {pair('x0', 'x', 'coarse')}",
        mask=f"x1 = Mul(x, root) {pair('x1', 'y', 'wide')}",
        weights=pair("p", "w", "third", "none"),
        product="o = MatMul(w, vd)",
    )
    site = check_site(block.model(), tolerance=0.1)
    assert (site.query.tensor, site.value.tensor) == ("qd", "vd")
    assert site.query.scale is None
    assert "Q/DQ of the scores absorbed" in site.notes


BOUNDED = {
    "codes": f"{pair('bias', 'b', 'wide')} y0 = Add(x, b)",
    "constant": "y0 = Add(x, places)",
    "two constants": "b = Where(keep, half, places) y0 = Add(x, b)",
}


@pytest.mark.parametrize("name", BOUNDED)
def test_rounding_after_a_bias_that_cannot_mask(name: str) -> None:
    block = Block(
        inputs=f"{PLAIN_INPUTS}, float[B,1,1,T] bias, bool[B,1,1,T] keep",
        constants=f"{STEPS}, float[4,1,1] places = {{0.0, 1.0, -2.0, 0.5}}, float half = {{0.5}}",
        mask=f"{BOUNDED[name]} {pair('y0', 'y', 'coarse')}",
    )
    site = check_site(block.model(), tolerance=0.2)
    assert len(site.mask.terms) == 1


def test_codes_of_a_few_steps_less_than_one() -> None:
    """Calibration saw no weight above 0.98."""
    constants = f"{STEPS}, float low = {{0.00385}}"
    check_site(
        Block(constants=constants, weights=pair("p", "w", "low", "none")).model(), tolerance=0.05
    )


REFUSED = {
    "after a mask": (
        Block(
            inputs=f"{PLAIN_INPUTS}, float[B,1,1,T] bias",
            constants=STEPS,
            mask=f"y0 = Add(x, bias) {pair('y0', 'y')}",
        ),
        "round scores after 'bias' may have masked some",
    ),
    "after a mask of codes": (
        Block(
            inputs=f"{PLAIN_INPUTS}, float[B,1,1,T] bias",
            constants=f"{STEPS}, float large = {{39.2}}",
            mask=f"{pair('bias', 'b', 'large')} y0 = Add(x, b) {pair('y0', 'y')}",
        ),
        "round scores after 'b' may have masked some",
    ),
    "after a selection": (
        Block(
            inputs=f"{PLAIN_INPUTS}, bool[B,1,1,T] keep",
            constants=f"{STEPS}, float low = {{-1e4}}",
            mask=f"y0 = Where(keep, x, low) {pair('y0', 'y')}",
        ),
        "round scores after 'keep' may have masked some",
    ),
    "turned bias": (
        Block(
            inputs=f"{PLAIN_INPUTS}, float[B,1,1,T] bias",
            constants=f"{STEPS}, float turned = {{-1.0}}",
            mask=f"{pair('bias', 'b', 'wide')} y0 = Add(x, b) y1 = Mul(y0, turned) {pair('y1', 'y')}",
        ),
        "round scores after 'b' may have masked some",
    ),
    "two steps": (
        Block(
            constants=STEPS,
            mask="c = QuantizeLinear(x, step, zero) y = DequantizeLinear(c, wide, zero)",
        ),
        "are not one step for all scores",
    ),
    "two centres": (
        Block(
            constants=f"{STEPS}, uint8 other = {{7}}",
            mask="c = QuantizeLinear(x, step, zero) y = DequantizeLinear(c, step, other)",
        ),
        "are not one step for all scores",
    ),
    "codes read twice": (
        Block(
            constants=STEPS,
            mask=f"{pair('x', 'y')} extra = Cast<to=1>(yc)",
        ),
        "quantized score matrix",
    ),
    "weights up to a half": (
        Block(constants=f"{STEPS}, float low = {{0.002}}", weights=pair("p", "w", "low", "none")),
        "do not cover weights from 0 to 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_pairs_are_refused(name: str) -> None:
    block, reason = REFUSED[name]
    model = block.model()
    for node in model.graph.node:
        if node.output[0] == "extra":
            model.graph.output.add(name="extra")
    assert reason in refusal_of(model).reason
