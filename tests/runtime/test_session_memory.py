"""A session over weights in a file keeps no private copy of them."""

import subprocess
import sys
from pathlib import Path

import pytest

MEGABYTES = 96

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from onnx import TensorProto, helper
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.weights import FileSlice, WeightStore, hollow_tensor
from qfa_passes.runtime.session import create_session

def private_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

path, rows = Path(sys.argv[1]), int(sys.argv[2])
store = WeightStore()
location = store.add(FileSlice(path, 0, rows * 4096))
tensor = hollow_tensor("w", TensorProto.FLOAT, (1024, rows), location)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])], "g",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1024])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [tensor])
proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
model = LoadedModel(proto, store, None, "")
import onnxruntime
before = private_megabytes()
session = create_session(model, prepack=False, threads=1)
assert session.run(None, {"x": np.ones((1, 1024), np.float32)})[0].sum() == 0
print(private_megabytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's own accounting")
def test_no_private_copy(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    with path.open("wb") as stream:
        stream.truncate(MEGABYTES << 20)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str((MEGABYTES << 20) // 4096)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert float(result.stdout) < MEGABYTES / 3
