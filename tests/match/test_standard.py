"""The operator ai.onnx::Attention; rank, grouping and causal alignment as ONNX Runtime computes them."""

from dataclasses import replace

import pytest

from qfa_passes.core.site import Mask, MaskKind, MaskTerm
from tests.match.blocks import PLAIN_INPUTS, Block, find, refusal_of
from tests.match.oracle import check_site


def attention(
    call: str = "q, k, v", attributes: str = "scale = 0.25", inputs: str = PLAIN_INPUTS
) -> Block:
    """One Attention node."""
    given = f" <{attributes}>" if attributes else ""
    return Block(
        inputs=inputs,
        keys="",
        scores="",
        mask="",
        softmax="",
        weights="",
        product=f"o = Attention{given} ({call})",
        opset=23,
    )


def test_plain() -> None:
    site = check_site(attention().model())
    assert (site.scale, site.exporter, site.nodes) == (0.25, "ai.onnx::Attention", ("n0",))


def test_scale_by_default() -> None:
    assert check_site(attention(attributes="").model()).scale == pytest.approx(8**-0.5)


def test_grouped_heads() -> None:
    inputs = "float[B,4,S,8] q, float[B,2,T,8] k, float[B,2,T,6] v"
    site = check_site(attention(inputs=inputs).model())
    assert (site.num_heads, site.kv_num_heads) == (4, 2)


@pytest.mark.parametrize("sizes", [{"S": 5, "T": 5}, {"S": 3, "T": 7}])
def test_causal(sizes: dict[str, int]) -> None:
    block = attention(attributes="scale = 0.25, is_causal = 1")
    assert check_site(block.model(), sizes).mask == Mask(causal=True)


MASKS = {
    "bool": ("bool[B,1,S,T] m", MaskKind.KEEP),
    "float": ("float[B,1,S,T] m", MaskKind.BIAS),
    "per head": ("float[1,4,S,T] m", MaskKind.BIAS),
    "of rank 2": ("bool[S,T] m", MaskKind.KEEP),
}


@pytest.mark.parametrize("name", MASKS)
def test_mask(name: str) -> None:
    inputs, kind = MASKS[name]
    site = check_site(attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, {inputs}").model())
    assert site.mask == Mask(terms=(MaskTerm("m", kind),))


PAST = f"{PLAIN_INPUTS}, float[B,4,P,8] pk, float[B,4,P,6] pv"
REFUSED = {
    "softcap": (attention(attributes="softcap = 2.0"), "softcap of 'n0'"),
    "past": (attention("q, k, v, , pk, pv", inputs=PAST), "input past_key of 'n0'"),
    "three dimensions": (
        attention(
            attributes="q_num_heads = 4, kv_num_heads = 4",
            inputs="float[B,S,32] q, float[B,T,32] k, float[B,T,24] v",
        ),
        "layout of 'n0'",
    ),
    "mask that is shorter than the keys": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, bool[B,1,S,U] m"),
        "may have fewer keys",
    ),
    "mask of one key": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, bool[B,1,S,1] m"),
        "may have fewer keys",
    ),
    "mask of integers": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, int64[B,1,S,T] m"),
        "'m' has type int64",
    ),
    "uneven groups": (
        attention(inputs="float[B,4,S,8] q, float[B,3,T,8] k, float[B,3,T,6] v"),
        "4 query heads do not share 3",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_this_release_does_not_take(name: str) -> None:
    block, reason = REFUSED[name]
    model = block.model()
    model.graph.output[0].ClearField("type")
    assert reason in refusal_of(model).reason


def test_second_output_in_use() -> None:
    block = attention()
    model = block.model()
    model.graph.node[0].output.extend(["", "", "scores"])
    model.graph.output.add(name="scores")
    assert "output 3 of 'n0' ('scores') is used" in refusal_of(model).reason


def test_foreign_attention_is_no_candidate() -> None:
    product, domains = "o = other.Attention(q, k, v)", ', "other": 1'
    block = replace(attention(), product=product, domains=domains)
    assert find(block.model()) == []
