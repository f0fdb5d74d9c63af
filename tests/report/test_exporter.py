"""Who wrote a model."""

import pytest
from onnx import ModelProto, helper

from qfa_passes.report.exporter import exporter_family


def model(producer: str, version: str = "", domain: str = "", mark: str = "") -> ModelProto:
    node = helper.make_node("Relu", ["x"], ["y"])
    if mark:
        node.metadata_props.add(key=mark, value="1")
    graph = helper.make_graph([node], "g", [], [])
    opsets = [helper.make_opsetid("", 17)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(
        graph, producer_name=producer, producer_version=version, opset_imports=opsets
    )


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (model("pytorch", "2.9.1"), "torch.onnx TorchScript (pytorch 2.9.1)"),
        (
            model("pytorch", "2.9.1", mark="pkg.torch.onnx.name_scopes"),
            "torch.onnx dynamo (pytorch 2.9.1)",
        ),
        (model("pytorch", "2.9.1", mark="note"), "torch.onnx TorchScript (pytorch 2.9.1)"),
        (model("optimum-onnx"), "optimum"),
        (
            model("onnxruntime.transformers", "1.2", "com.microsoft"),
            "ONNX Runtime transformer optimizer 1.2",
        ),
        (
            model("onnxruntime-genai", "0.0.0", "com.microsoft"),
            "onnxruntime-genai model builder 0.0.0",
        ),
        (
            model("pytorch", "2.0", "com.microsoft"),
            "torch.onnx TorchScript (pytorch 2.0), with operators of com.microsoft",
        ),
        (model("my exporter", "7"), "my exporter 7"),
        (model(""), ""),
        (model("", domain="com.microsoft"), "operators of com.microsoft"),
        (model("evil\x1b[31m"), "evil\\x1b[31m"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_exporter_family(proto: ModelProto, words: str) -> None:
    assert exporter_family(proto) == words
