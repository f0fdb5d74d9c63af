"""Attention blocks in ONNX text, put together from parts that each test varies."""

from dataclasses import dataclass

import onnx
from onnx import ModelProto

from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.graph.graph_pass import run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.match import find_sites
from qfa_passes.normalize import NORMALIZE, raise_opset

PLAIN_INPUTS = "float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v"
IR_VERSIONS = {13: 7, 17: 8, 18: 8, 21: 10, 23: 11, 24: 12, 25: 13}


@dataclass(frozen=True)
class Block:
    """softmax(q k^T) v; the names that parts hand on are kt, x (scores), y (masked), p (softmax) and w (weights)."""

    inputs: str = PLAIN_INPUTS
    constants: str = ""
    before: str = ""
    keys: str = "kt = Transpose <perm = [0, 1, 3, 2]> (k)"
    scores: str = "x = MatMul(q, kt)"
    mask: str = "y = Identity(x)"
    softmax: str = "p = Softmax <axis = -1> (y)"
    weights: str = "w = Identity(p)"
    product: str = "o = MatMul(w, v)"
    outputs: str = "float[B,4,S,6] o"
    opset: int = 17
    domains: str = ""

    def model(self) -> ModelProto:
        """The block as a model; every node is called n0, n1, ..."""
        parts = (
            self.before,
            self.keys,
            self.scores,
            self.mask,
            self.softmax,
            self.weights,
            self.product,
        )
        text = (
            f'<ir_version: {IR_VERSIONS[self.opset]}, opset_import: ["": {self.opset}{self.domains}]>\n'
            f"block ({self.inputs}) => ({self.outputs})\n"
            f"{f'<{self.constants}>' if self.constants else ''}\n"
            "{\n" + "\n".join(part for part in parts if part) + "\n}"
        )
        proto = onnx.parser.parse_model(text)
        for number, node in enumerate(proto.graph.node):
            node.name = f"n{number}"
        return proto


def normalized(proto: ModelProto) -> ModelProto:
    """The model as the matcher gets it."""
    typed = onnx.shape_inference.infer_shapes(raise_opset(proto), data_prop=True)
    graph = Graph(typed)
    run_passes(graph, NORMALIZE)
    return onnx.shape_inference.infer_shapes(graph.finish(), data_prop=True)


def find(proto: ModelProto) -> list[AttentionSite | Refusal]:
    """Normalizes and matches."""
    return find_sites(Graph(normalized(proto)))


def site_of(proto: ModelProto) -> AttentionSite:
    """The one site of a model."""
    (site,) = find(proto)
    assert isinstance(site, AttentionSite), site
    return site


def refusal_of(proto: ModelProto) -> Refusal:
    """The one refusal of a model."""
    (refusal,) = find(proto)
    assert isinstance(refusal, Refusal), refusal
    return refusal
