"""The operator ai.onnx::Attention: what its reference implementation computes, and ONNX Runtime where it can."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from qfa_passes.core.site import Cache, Mask, MaskKind, MaskTerm, Refusal
from qfa_passes.core.view import merge_heads
from qfa_passes.graph.ir import Graph
from qfa_passes.match import find_sites
from tests.match.blocks import PLAIN_INPUTS, Block, find, refusal_of, site_of
from tests.match.oracle import attention as attention_of
from tests.match.oracle import check_site, made_up


def attention(
    call: str = "q, k, v",
    attributes: str = "scale = 0.25",
    inputs: str = PLAIN_INPUTS,
    *,
    opset: int = 23,
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
        opset=opset,
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


LENGTHS = "int64[B] n"
PAST = f"{PLAIN_INPUTS}, float[B,4,P,8] pk, float[B,4,P,6] pv"
SAME = "float[B,4,S,8] q, float[B,4,S,8] k, float[B,4,S,6] v, float[B,4,P,8] pk, float[B,4,P,6] pv"
FEWER_NEW = (
    "float[B,4,5,8] q, float[B,4,3,8] k, float[B,4,3,6] v, float[B,4,P,8] pk, float[B,4,P,6] pv"
)
CASES = {
    "softcap": (attention(attributes="softcap = 2.0"), {"softcap": 2.0}),
    "three axes": (
        attention(
            attributes="q_num_heads = 4, kv_num_heads = 2",
            inputs="float[B,S,32] q, float[B,T,16] k, float[B,T,12] v",
        ),
        {"num_heads": 4, "kv_num_heads": 2, "v_channels": 6, "output_views": merge_heads(4, 6)},
    ),
    "past": (attention("q, k, v, , pk, pv", inputs=PAST), {"cache": Cache("pk", "pv")}),
    "past, causal": (
        attention("q, k, v, , pk, pv", "is_causal = 1", SAME),
        {"cache": Cache("pk", "pv"), "mask": Mask(causal=True, queries_at_end=True)},
    ),
    "past and mask": (
        attention("q, k, v, m, pk, pv", inputs=f"{PAST}, bool[B,1,S,9] m"),
        {"mask": Mask(terms=(MaskTerm("m", MaskKind.KEEP),))},
    ),
    "three axes, past": (
        attention(
            "q, k, v, , pk, pv",
            "q_num_heads = 4, kv_num_heads = 2",
            "float[B,S,32] q, float[B,T,16] k, float[B,T,12] v, float[B,2,P,8] pk, float[B,2,P,6] pv",
        ),
        {"cache": Cache("pk", "pv")},
    ),
    "mask that is shorter than the keys": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, bool[B,1,S,U] m", opset=24),
        {"mask": Mask(terms=(MaskTerm("m", MaskKind.KEEP, fewer_keys=True),))},
    ),
    "bias of one key": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, float[S,1] m", opset=24),
        {"mask": Mask(terms=(MaskTerm("m", MaskKind.BIAS, fewer_keys=True),))},
    ),
    "mask per head": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, float[4,S,T] m"),
        {"mask": Mask(terms=(MaskTerm("m", MaskKind.BIAS),))},
    ),
    "mask of keys": (
        attention(
            "q, k, v, m",
            "is_causal = 1, left_window_size = 3",
            f"{PLAIN_INPUTS}, bool[T] m",
            opset=25,
        ),
        {"mask": Mask(True, (MaskTerm("m", MaskKind.KEEP),), left_window=3)},
    ),
    "lengths": (
        attention("q, k, v, , , , n", inputs=f"{PLAIN_INPUTS}, {LENGTHS}", opset=24),
        {"mask": Mask(kv_length="n")},
    ),
    "lengths, causal": (
        attention("q, k, v, , , , n", "is_causal = 1", f"{PLAIN_INPUTS}, {LENGTHS}", opset=24),
        {"mask": Mask(True, queries_at_end=True, kv_length="n")},
    ),
    "window": (
        attention(attributes="left_window_size = 1, right_window_size = 2", opset=25),
        {"mask": Mask(left_window=1, right_window=2)},
    ),
    "window on the left": (
        attention(attributes="left_window_size = 0", opset=25),
        {"mask": Mask(left_window=0)},
    ),
    "window on the right": (
        attention(attributes="right_window_size = 0", opset=25),
        {"mask": Mask(causal=True)},
    ),
    "causal window": (
        attention(
            attributes="left_window_size = 2, right_window_size = 3, is_causal = 1", opset=25
        ),
        {"mask": Mask(causal=True, left_window=2)},
    ),
    "window and lengths": (
        attention(
            "q, k, v, , , , n", "left_window_size = 1", f"{PLAIN_INPUTS}, {LENGTHS}", opset=25
        ),
        {"mask": Mask(queries_at_end=True, left_window=1, kv_length="n")},
    ),
    "window and past": (
        attention("q, k, v, , pk, pv", "left_window_size = 1, is_causal = 1", SAME, opset=25),
        {"mask": Mask(causal=True, queries_at_end=True, left_window=1)},
    ),
    "fewer new keys than queries": (
        attention("q, k, v, , pk, pv", "left_window_size = 2, is_causal = 1", FEWER_NEW, opset=25),
        {"mask": Mask(queries_at_end=True, left_window=0, right_window=2)},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_against_the_reference(name: str) -> None:
    block, wanted = CASES[name]
    model = block.model()
    model.graph.output[0].ClearField("type")
    site = site_of(model)
    assert {key: getattr(site, key) for key in wanted} == wanted
    for sizes in ({"S": 5, "T": 7}, {"S": 2, "T": 2}):
        feeds = made_up(model, {"B": 2, "P": 9 - sizes["T"], "U": 2, **sizes})
        if "n" in feeds:
            feeds["n"] = np.array([sizes["T"], sizes["T"] - 1])
        (expected,) = ReferenceEvaluator(model).run(None, feeds)
        np.testing.assert_allclose(attention_of(site, feeds), expected, rtol=1e-4, atol=1e-5)


REFUSED = {
    "mask of integers": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, int64[B,1,S,T] m"),
        "'m' has type int64",
    ),
    "mask of five axes": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, bool[1,B,1,S,T] m"),
        "has 5 axes",
    ),
    "mask of other heads": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, bool[1,3,S,T] m"),
        "does not fit the scores",
    ),
    "uneven groups": (
        attention(inputs="float[B,4,S,8] q, float[B,3,T,8] k, float[B,3,T,6] v"),
        "4 query heads do not share 3",
    ),
    "three axes without heads": (
        attention(inputs="float[B,S,32] q, float[B,T,32] k, float[B,T,24] v"),
        "no q_num_heads",
    ),
    "heads that do not divide": (
        attention(
            attributes="q_num_heads = 5, kv_num_heads = 5",
            inputs="float[B,S,32] q, float[B,T,32] k, float[B,T,24] v",
        ),
        "are not 5 heads",
    ),
    "past key without value": (
        attention("q, k, v, , pk", inputs=f"{PLAIN_INPUTS}, float[B,4,P,8] pk"),
        "only one of past_key and past_value",
    ),
    "past of another type": (
        attention(
            "q, k, v, , pk, pv", inputs=f"{PLAIN_INPUTS}, float16[B,4,P,8] pk, float16[B,4,P,6] pv"
        ),
        "different element types",
    ),
    "past and lengths": (
        attention("q, k, v, , pk, pv, n", inputs=f"{PAST}, {LENGTHS}", opset=24),
        "at once",
    ),
    "past of other heads": (
        attention(
            "q, k, v, , pk, pv", inputs=f"{PLAIN_INPUTS}, float[B,2,P,8] pk, float[B,2,P,6] pv"
        ),
        "2 against 4",
    ),
    "past of other channels": (
        attention(
            "q, k, v, , pk, pv", inputs=f"{PLAIN_INPUTS}, float[B,4,P,4] pk, float[B,4,P,6] pv"
        ),
        "does not go in front of K and V",
    ),
    "past keys and values of different lengths": (
        attention(
            "q, k, v, , pk, pv", inputs=f"{PLAIN_INPUTS}, float[B,4,3,8] pk, float[B,4,2,6] pv"
        ),
        "3 against 2",
    ),
    "mask without axes": (
        attention("q, k, v, m", inputs=f"{PLAIN_INPUTS}, bool m"),
        "has no axes",
    ),
    "scale that is a word": (attention(attributes='scale = "much"'), "scale of 'n0' is no number"),
    "queries of unknown place": (
        attention("q, k, v, , pk, pv", "is_causal = 1", PAST),
        "not clear where the queries stand",
    ),
    "more new keys than queries": (
        attention(
            "q, k, v, , pk, pv",
            "is_causal = 1",
            "float[B,4,3,8] q, float[B,4,5,8] k, float[B,4,5,6] v, float[B,4,P,8] pk, float[B,4,P,6] pv",
        ),
        "too far for its bounds",
    ),
    "negative softcap": (attention(attributes="softcap = -2.0"), "is no cap"),
    "softmax of integers": (attention(attributes="softmax_precision = 7"), "is no float type"),
    "window below -1": (
        attention(attributes="left_window_size = -2", opset=25),
        "left_window_size -2 of 'n0'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    block, reason = REFUSED[name]
    model = block.model()
    model.graph.output[0].ClearField("type")
    assert reason in refusal_of(model).reason


def test_scores_as_an_output() -> None:
    model = attention().model()
    model.graph.node[0].output.extend(["", "", "scores"])
    model.graph.output.add(name="scores")
    refusal = refusal_of(model)
    assert "asks for the score matrix ('scores') of 'n0'" in refusal.reason
    assert "output_attentions=False" in refusal.hint


def test_present_keys_without_past_ones() -> None:
    model = attention().model()
    model.graph.node[0].output.append("present")
    model.graph.output.add(name="present")
    assert "no past keys" in refusal_of(model).reason


def test_present_keys_and_values() -> None:
    model = attention("q, k, v, , pk, pv", inputs=PAST).model()
    model.graph.node[0].output.extend(["present", "unread"])
    model.graph.output.add(name="present")
    assert site_of(model).cache == Cache("pk", "pv", "present", None)


def test_scale_above_cached_keys_stays_there() -> None:
    """The present keys are the scaled ones."""
    block = replace(
        attention("q, k2, v, , pk, pv", "scale = 0.25", PAST),
        before="k2 = Mul(k, half)",
        constants="float half = {0.5}",
    )
    site = site_of(block.model())
    assert (site.key.tensor, site.scale) == ("k2", 0.25)


def test_foreign_attention_is_no_candidate() -> None:
    product, domains = "o = other.Attention(q, k, v)", ', "other": 1'
    block = replace(attention(), product=product, domains=domains)
    assert find(block.model()) == []


def test_missing_values() -> None:
    model = attention("q, k").model()
    assert "lacks Q, K or V" in one_refusal(model)


def one_refusal(model: ModelProto) -> str:
    """The reason that the matcher gives where a model does not pass type inference."""
    (refusal,) = find_sites(Graph(model))
    assert isinstance(refusal, Refusal)
    return refusal.reason
