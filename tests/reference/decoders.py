"""Small transformer blocks in ONNX text, for passes and for whole runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, numpy_helper

IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


@dataclass(frozen=True)
class Decoder:
    """A stack of attention blocks with residuals: x (B, S, E) -> y (B, S, E).

    Attributes:
        layers: Number of attention blocks.
        heads: H.
        kv_heads: Hkv; each is repeated by Expand, as exporters do.
        channels: D.
        opset: Version of ai.onnx; from 23 on attention is one standard node.
        dtype: ``float`` or ``float16``.
        causal: A triangle made of Range and Less.
        gain: Of the projections of Q and K; larger makes softmax sharper.
    """

    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    channels: int = 16
    opset: int = 17
    dtype: str = "float"
    causal: bool = True
    gain: float = 3.0

    @property
    def width(self) -> int:
        """E."""
        return self.heads * self.channels

    def model(self, seed: int = 0) -> ModelProto:
        """Returns the model with seeded weights."""
        body = "\n".join(self._layer(index) for index in range(self.layers))
        proto = onnx.parser.parse_model(f"""
            <ir_version: {IR_VERSIONS[self.opset]}, opset_import: ["" : {self.opset}]>
            decoder ({self.dtype}["batch", "sequence", {self.width}] x0)
                => ({self.dtype}["batch", "sequence", {self.width}] y)
            {{
                {self._triangle()}
                {body}
                y = Identity (x{self.layers})
            }}""")
        proto.graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self._weights(seed).items()
        )
        return proto

    def feeds(self, batch: int = 1, length: int = 70, seed: int = 1) -> dict[str, npt.NDArray]:
        """Returns an input."""
        x = np.random.default_rng(seed).standard_normal((batch, length, self.width))
        return {"x0": x.astype(np.float16 if self.dtype == "float16" else np.float32)}

    def _triangle(self) -> str:
        if not self.causal or self.opset >= 23:
            return ""
        return """
            shape = Shape (x0)
            length = Gather <axis = 0> (shape, one)
            positions = Range (zero, length, one)
            rows = Unsqueeze (positions, last)
            columns = Unsqueeze (positions, first)
            later = Greater (columns, rows)
            triangle = Where (later, lowest, nothing)
        """

    def _layer(self, i: int) -> str:
        heads = f"""
            q{i}_flat = MatMul (x{i}, wq{i})
            k{i}_flat = MatMul (x{i}, wk{i})
            v{i}_flat = MatMul (x{i}, wv{i})
            q{i}_split = Reshape (q{i}_flat, q_split)
            k{i}_split = Reshape (k{i}_flat, kv_split)
            v{i}_split = Reshape (v{i}_flat, kv_split)
            q{i} = Transpose <perm = [0, 2, 1, 3]> (q{i}_split)
            v{i} = Transpose <perm = [0, 2, 1, 3]> (v{i}_split)
        """
        tail = f"""
            o{i}_rows = Transpose <perm = [0, 2, 1, 3]> (o{i})
            o{i}_flat = Reshape (o{i}_rows, joined)
            o{i}_proj = MatMul (o{i}_flat, wo{i})
            x{i + 1} = Add (x{i}, o{i}_proj)
        """
        if self.opset >= 23:
            attention = f"""
                k{i} = Transpose <perm = [0, 2, 1, 3]> (k{i}_split)
                [attention_{i}] o{i} = Attention <is_causal = {int(self.causal)}> (q{i}, k{i}, v{i})
            """
            return heads + attention + tail
        scores = f"s{i}_masked = Add (s{i}_scaled, triangle)" if self.causal else ""
        attention = f"""
            k{i} = Transpose <perm = [0, 2, 3, 1]> (k{i}_split)
            [product_{i}] s{i} = MatMul (q{i}, k{i})
            s{i}_scaled = Mul (s{i}, scale)
            {scores}
            [attention_{i}] p{i} = Softmax <axis = -1> (s{i}_{"masked" if self.causal else "scaled"})
            o{i} = MatMul (p{i}, v{i})
        """
        if self.kv_heads != self.heads:
            attention = self._repeated(i, attention)
        return heads + attention + tail

    def _repeated(self, i: int, attention: str) -> str:
        """K and V with every head repeated, before the products."""
        repeat = f"""
            kr{i}_five = Unsqueeze (k{i}, third)
            kr{i}_many = Expand (kr{i}_five, repeat_k)
            kr{i} = Reshape (kr{i}_many, merged_k)
            vr{i}_five = Unsqueeze (v{i}, third)
            vr{i}_many = Expand (vr{i}_five, repeat_v)
            vr{i} = Reshape (vr{i}_many, merged_v)
        """
        head, rest = attention.split("[product", 1)
        rest = rest.replace(f"(q{i}, k{i})", f"(q{i}, kr{i})").replace(
            f"(p{i}, v{i})", f"(p{i}, vr{i})"
        )
        return head + repeat + "[product" + rest

    def _weights(self, seed: int) -> dict[str, npt.NDArray]:
        rng = np.random.default_rng(seed)
        kind = np.float16 if self.dtype == "float16" else np.float32
        width, kv_width, group = (
            self.width,
            self.kv_heads * self.channels,
            self.heads // self.kv_heads,
        )
        weights: dict[str, npt.NDArray] = {}
        for i in range(self.layers):
            for name, columns, gain in (
                ("wq", width, self.gain),
                ("wk", kv_width, self.gain),
                ("wv", kv_width, 1.0),
                ("wo", width, 0.5),
            ):
                matrix = rng.standard_normal((width, columns)) * gain / np.sqrt(width)
                weights[f"{name}{i}"] = matrix.astype(kind)
        integers = {
            "q_split": [0, 0, self.heads, self.channels],
            "kv_split": [0, 0, self.kv_heads, self.channels],
            "joined": [0, 0, width],
            "first": [0],
            "last": [1],
            "third": [2],
            "one": 1,
            "zero": 0,
            "repeat_k": [1, 1, group, 1, 1],
            "repeat_v": [1, 1, group, 1, 1],
            "merged_k": [0, self.heads, self.channels, -1],
            "merged_v": [0, self.heads, -1, self.channels],
        }
        weights |= {name: np.array(value, np.int64) for name, value in integers.items()}
        weights["scale"] = np.array(self.channels**-0.5, kind)
        weights["lowest"] = np.array(-np.inf, kind)
        weights["nothing"] = np.array(0, kind)
        return weights
