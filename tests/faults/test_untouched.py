"""What is not understood stays as it was, with a reason (G4)."""

import json
from pathlib import Path

import onnx
import pytest
from onnx import helper

from qfa_passes.__main__ import main
from tests.faults.test_command_line import model_with_attention


def computations(model: onnx.ModelProto) -> list[tuple[object, ...]]:
    """What the nodes compute; names of nodes are added where there were none."""
    return [
        (node.domain, node.op_type, list(node.input), list(node.output), list(node.attribute))
        for node in model.graph.node
    ]


def test_a_near_miss_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Softmax over the wrong axis is no attention; neither is one of a foreign domain."""
    wrong_axis, foreign = model_with_attention(), model_with_attention()
    wrong_axis.graph.node[2].attribute[0].i = -2
    foreign.graph.node[2].domain = "mars"
    foreign.opset_import.append(helper.make_opsetid("mars", 1))
    for number, model in enumerate((wrong_axis, foreign)):
        source, target = tmp_path / f"in{number}.onnx", tmp_path / f"out{number}.onnx"
        source.write_bytes(model.SerializeToString())
        verify = ["--verify", "off"] if model is foreign else []  # nobody can run that one
        assert main(["optimize", str(source), "-o", str(target), "--json", *verify]) == 0
        report = json.loads(capsys.readouterr().out)
        assert [site["status"] for site in report["sites"]] == (
            ["refused"] if model is wrong_axis else []
        )
        assert all(site["reason"] for site in report["sites"])
        result = onnx.load(target)
        assert computations(result) == computations(model)
        assert not result.functions
