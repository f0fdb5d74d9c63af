"""Mask terms as inputs of the operator: the nodes that are made, and that they mean the same."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from onnx import ModelProto, TensorProto, helper

from qfa_passes.core import opspec
from qfa_passes.core.plan import SitePlan
from qfa_passes.core.site import Mask, MaskKind, MaskTerm, Operand
from qfa_passes.fuse.attach_body import attach_body
from qfa_passes.fuse.fuse_attention import FuseAttention
from qfa_passes.graph.ir import Graph
from tests.operator.sessions import run
from tests.reference.attention_cases import nmse
from tests.reference.golden_graphs import GROUPED_SITE

Array = npt.NDArray[np.generic]
BATCH, HEADS, ROWS, KEYS = 2, 2, 5, 70
INFINITE = -float("inf")

TERMS = {
    "keep": MaskTerm("keep", MaskKind.KEEP),
    "drop": MaskTerm("drop", MaskKind.DROP),
    "keep_fill": MaskTerm("keep_2", MaskKind.KEEP, -1e9),
    "drop_fill": MaskTerm("drop_2", MaskKind.DROP, -65504.0),
    "bias": MaskTerm("bias", MaskKind.BIAS),
    "bias_half": MaskTerm("bias_half", MaskKind.BIAS),
    "bias_double": MaskTerm("bias_double", MaskKind.BIAS),
}


def values() -> dict[str, Array]:
    """Masks of several shapes and types; key 0 is seen by every row."""
    rng = np.random.default_rng(0)
    shapes = {
        "keep": (BATCH, 1, 1, KEYS),
        "drop": (ROWS, KEYS),
        "keep_2": (HEADS, 1, KEYS),
        "drop_2": (BATCH, HEADS, ROWS, KEYS),
    }
    found: dict[str, Array] = {}
    for name, shape in shapes.items():
        chosen = rng.random(shape) < (0.8 if name.startswith("keep") else 0.2)
        chosen[..., 0] = name.startswith("keep")
        found[name] = chosen
    bias = rng.standard_normal((HEADS, ROWS, KEYS))
    found["bias"] = bias.astype(np.float32)
    found["bias_half"] = bias[:1].astype(np.float16)
    found["bias_double"] = bias[0]
    return found


def model_of(terms: tuple[MaskTerm, ...]) -> ModelProto:
    """Returns a model of one fused site with these terms."""
    given = values()
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, HEADS, None, 16])
        for name in "qkv"
    ]
    inputs += [
        helper.make_tensor_value_info(
            term.tensor,
            helper.np_dtype_to_tensor_dtype(given[term.tensor].dtype),
            given[term.tensor].shape,
        )
        for term in terms
    ]
    output = helper.make_tensor_value_info("o", TensorProto.FLOAT, [BATCH, HEADS, None, 16])
    anchor = helper.make_node("Identity", ["q"], ["o"], "anchor")
    proto = helper.make_model(
        helper.make_graph([anchor], "masks", inputs, [output]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    site = replace(
        GROUPED_SITE,
        query=Operand("q"),
        key=Operand("k"),
        value=Operand("v"),
        mask=Mask(terms=terms),
        num_heads=HEADS,
        kv_num_heads=HEADS,
    )
    graph = Graph(proto)
    FuseAttention([(site, SitePlan("attention"))], {})(graph)
    fused = graph.finish()
    attach_body(fused, 16)
    return fused


def oracle(inputs: dict[str, Array], terms: tuple[MaskTerm, ...]) -> npt.NDArray[np.float64]:
    """Attention with the terms applied to the scores one after the other, in float64."""
    query, key, value = (inputs[name].astype(np.float64) for name in "qkv")
    scores = query @ key.swapaxes(2, 3) * 0.25
    for term in terms:
        mask = inputs[term.tensor]
        if term.kind is MaskKind.BIAS:
            scores = scores + mask.astype(np.float64)
        elif term.kind is MaskKind.KEEP:
            scores = np.where(mask, scores, term.fill)
        else:
            scores = np.where(mask, term.fill, scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    result: npt.NDArray[np.float64] = weights / weights.sum(axis=-1, keepdims=True) @ value
    return result


def operators(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type != opspec.OP_TYPE]


@pytest.mark.parametrize("library", [True, False], ids=["kernel", "body"])
@pytest.mark.parametrize(
    "names",
    [(), *((name,) for name in TERMS), *combinations(TERMS, 2), tuple(TERMS)],
    ids=" ".join,
)
def test_terms_mean_the_same_in_the_operator(names: tuple[str, ...], library: bool) -> None:
    terms = tuple(TERMS[name] for name in names)
    rng = np.random.default_rng(1)
    inputs: dict[str, Array] = {
        name: rng.standard_normal((BATCH, HEADS, length, 16)).astype(np.float32)
        for name, length in (("q", ROWS), ("k", KEYS), ("v", KEYS))
    }
    given = values()
    inputs |= {term.tensor: given[term.tensor] for term in terms}
    (actual,) = run(model_of(terms), inputs, library=library)
    assert nmse(actual, oracle(inputs, terms)) < 5e-4


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (("keep",), []),
        (("bias",), []),
        (("bias_half",), []),
        (("drop",), ["Not"]),
        (("keep_fill",), ["Where"]),
        (("keep", "drop"), ["Not", "And"]),
        (("bias", "keep_fill"), ["Where", "Add"]),
        (("bias_double",), ["Cast"]),
        (("bias", "bias_half"), ["Cast", "Add"]),
        (("keep", "bias"), []),
    ],
    ids=str,
)
def test_no_more_nodes_than_needed(names: tuple[str, ...], wanted: list[str]) -> None:
    assert sorted(operators(model_of(tuple(TERMS[name] for name in names)))) == sorted(wanted)


def test_row_whose_keys_are_all_filled_is_the_mean_of_the_values() -> None:
    """As in the float model: a finite fill makes all scores of such a row (nearly) equal."""
    terms = (MaskTerm("keep", MaskKind.KEEP, float(np.finfo(np.float32).min)),)
    rng = np.random.default_rng(1)
    inputs: dict[str, Array] = {
        name: rng.standard_normal((BATCH, HEADS, length, 16)).astype(np.float32)
        for name, length in (("q", ROWS), ("k", KEYS), ("v", KEYS))
    }
    inputs["keep"] = np.zeros((BATCH, 1, 1, KEYS), bool)
    mean = np.broadcast_to(inputs["v"].mean(axis=2, keepdims=True), (BATCH, HEADS, ROWS, 16))
    for library in (True, False):
        (actual,) = run(model_of(terms), inputs, library=library)
        assert nmse(actual, mean) < 5e-4
