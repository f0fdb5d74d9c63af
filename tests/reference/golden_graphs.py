"""Graphs before and after a pass, as ONNX text, and the attention site that one of them holds."""

from pathlib import Path

from onnx import GraphProto, ModelProto, TensorProto, parser, printer

from qfa_passes.core.site import AttentionSite, Mask, MaskKind, MaskTerm, Operand
from qfa_passes.core.view import permute

_FOLDER = Path(__file__).parents[1] / "golden"

GROUPED_SITE = AttentionSite(
    name="attention",
    query=Operand("q", path=("product",)),
    key=Operand("k", path=("five_k", "many_k", "all_k", "turned_k", "product")),
    value=Operand(
        "v", permute(0, 2, 1, 3), path=("heads_v", "five_v", "many_v", "all_v", "output")
    ),
    output="o",
    mask=Mask(terms=(MaskTerm("keep", MaskKind.KEEP),)),
    scale=0.25,
    num_heads=4,
    kv_num_heads=2,
    qk_channels=16,
    v_channels=8,
    dtype=TensorProto.FLOAT,
    nodes=("attention", "masked", "scaled", "product", "output"),
    exporter="decomposed",
)
"""The site of grouped_block.txt; V is taken where it still is (B, T, Hkv, Dv)."""


def golden(name: str) -> ModelProto:
    """Reads tests/golden/NAME.txt."""
    return parse((_FOLDER / f"{name}.txt").read_text())


def parse(graph: str, opset: int = 17) -> ModelProto:
    """Reads a graph in ONNX text as a model."""
    return parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, "ai.qfa" : 1]>\n{graph}'
    )


def as_text(graph: GraphProto) -> str:
    """Writes a graph in ONNX text, without inferred types, initializers by name."""
    copy = GraphProto()
    copy.CopyFrom(graph)
    del copy.value_info[:]
    tensors = sorted(copy.initializer, key=lambda tensor: tensor.name)
    del copy.initializer[:]
    copy.initializer.extend(tensors)
    return printer.to_text(copy)


def assert_golden(actual: ModelProto, name: str) -> None:
    """Asserts that a graph is the one in tests/golden/NAME.txt."""
    assert as_text(actual.graph) == as_text(golden(name).graph)
