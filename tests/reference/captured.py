"""Errors of int8 attention on the Q, K and V of a real language model; prints a Markdown table.

    python -m tests.reference.captured MODEL.onnx TOKENIZER.json TEXT.txt [TOKENS]

The model must use the standard Attention operator (opset 23) and be causal.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import NodeProto
from tokenizers import Tokenizer

from qfa_passes.quant import hadamard
from qfa_passes.quant.attention import Masking, Quantization, attention_float64, attention_int8
from tests.reference.attention_cases import nmse
from tests.reference.normalizer import Case, both_normalizers

Array = npt.NDArray[np.float32]
CAUSAL = Masking(causal=True)


def capture(
    model_path: Path, tokens: npt.NDArray[np.int64]
) -> Iterator[tuple[float, Array, Array, Array]]:
    """Yields scale, Q, K and V of each Attention node."""
    model = onnx.load(str(model_path), load_external_data=False)
    nodes = [node for node in model.graph.node if node.op_type == "Attention"]
    wanted = list(dict.fromkeys(name for node in nodes for name in node.input[:3]))
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name in wanted if name not in known
    )
    probe = model_path.with_name("captured_probe.onnx")  # beside the model, to find its weights
    onnx.save(model, str(probe))
    try:
        session = ort.InferenceSession(str(probe), providers=["CPUExecutionProvider"])
        feeds = {"input_ids": tokens[None], "attention_mask": np.ones_like(tokens)[None]}
        names = {item.name for item in session.get_inputs()}
        results = session.run(wanted, {name: x for name, x in feeds.items() if name in names})
    finally:
        probe.unlink()
    values = dict(zip(wanted, (np.asarray(x, np.float32) for x in results), strict=True))
    for node in nodes:
        q, k, v = (values[name] for name in node.input[:3])
        yield _scale(node, q.shape[-1]), q, k, v


def _scale(node: NodeProto, channels: int) -> float:
    for attribute in node.attribute:
        if attribute.name == "scale":
            return float(attribute.f)
    return float(channels**-0.5)


def errors(scale: float, q: Array, k: Array, v: Array) -> dict[str, float]:
    """Returns the error of the operator's variants, and of the two normalizers, on one layer."""
    exact = attention_float64(q, k, v, scale=scale, masking=CAUSAL)
    mean = k.mean(axis=(0, 2))
    variants = {
        "operator": Quantization(),
        "with K mean": Quantization(k_mean=mean),
        "with Hadamard": Quantization(rotate=True),
        "with both": Quantization(k_mean=mean, rotate=True),
    }
    result = {
        name: nmse(attention_int8(q, k, v, scale=scale, masking=CAUSAL, quantization=how), exact)
        for name, how in variants.items()
    }
    for name, heads in zip(
        ("with Hadamard, sum of unrounded weights", "with Hadamard, sum of rounded codes"),
        zip(*(both_normalizers(case) for case in _rotated_heads(scale, q, k, v)), strict=True),
        strict=True,
    ):
        result[name] = nmse(np.stack(heads)[None], exact)
    return result


def _rotated_heads(scale: float, q: Array, k: Array, v: Array) -> Iterator[Case]:
    """Yields each head of batch 0, rotated, for the comparison of normalizers."""
    group = q.shape[1] // k.shape[1]
    factor = scale / hadamard.block_length(q.shape[-1])
    for head in range(q.shape[1]):
        query = hadamard.transform(q[0, head]).astype(np.float64) * factor
        key = hadamard.transform(k[0, head // group]).astype(np.float64)
        yield Case("", query, key, v[0, head // group].astype(np.float64), causal=True)


def main(model: str, tokenizer: str, text: str, count: str = "512") -> None:
    """Prints mean and maximum over the layers."""
    ids = Tokenizer.from_file(tokenizer).encode(Path(text).read_text(encoding="utf-8")).ids
    tokens = np.array(ids[: int(count)], np.int64)
    rows = [errors(*layer) for layer in capture(Path(model), tokens)]
    print(
        f"{len(rows)} layers, {len(tokens)} tokens\n\n| | mean NMSE | largest NMSE |\n|---|---|---|"
    )
    for name in rows[0]:
        column = [row[name] for row in rows]
        print(f"| {name} | {np.mean(column):.1e} | {max(column):.1e} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
