"""Models larger than memory should be: the peak is independent of the weights (faults 13 and 84)."""

import subprocess
import sys
import textwrap
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from qfa_passes.core.weights import FileSlice
from qfa_passes.core.wire_format import GRAPH_INITIALIZER, MODEL_GRAPH, TENSOR_RAW_DATA, field_head
from qfa_passes.load import read_model
from tests.load.small_models import chain, external_tensor

MIB = 1 << 20

# Address space is limited to what is in use plus ``room``: an allocation as large as a tensor cannot succeed.
COPY = """
    import resource, sys, time
    from pathlib import Path
    from qfa_passes.load import read_model
    from qfa_passes.save import write_model

    source, target, mode, room = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
    saved = write_model(read_model(source), target, external_data=mode)
    # Not ru_maxrss, which counts what the parent held when it forked.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) // 1024
    print(peak, saved.nbytes, len(saved.paths))
"""


def copy(source: Path, target: Path, mode: str, room: int) -> tuple[int, int, int]:
    """Reads and writes a model in a process of little memory; returns peak MiB, bytes written and files."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COPY), str(source), str(target), mode, str(room)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    peak, nbytes, files = map(int, result.stdout.split())
    return peak, nbytes, files


def sharded(folder: Path, shards: int, nbytes: int) -> Path:
    """Writes a model with one sparse data file per tensor; each begins with its number, so that none are equal."""
    tensors = []
    for shard in range(shards):
        name = f"shard{shard}.data"
        with (folder / name).open("wb") as stream:
            stream.write(bytes([shard]) * 64)
            stream.truncate(nbytes)
        tensors.append(external_tensor(name, (nbytes // 4,)))
        tensors[-1].name = f"w{shard}"
    model = chain([helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"], initializer=tensors)
    path = folder / "in.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def inline(path: Path, nbytes: int) -> Path:
    """Writes a sparse .onnx file with one tensor of ``nbytes`` inside, without going through protobuf."""
    tensor = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[nbytes // 4]
    ).SerializeToString()
    tensor += field_head(TENSOR_RAW_DATA, nbytes)
    shell = chain([helper.make_node("Identity", ["x"], ["y"])], ["x"], ["y"])
    graph = (
        shell.graph.SerializeToString()
        + field_head(GRAPH_INITIALIZER, len(tensor) + nbytes)
        + tensor
    )
    shell.ClearField("graph")
    head = shell.SerializeToString() + field_head(MODEL_GRAPH, len(graph) + nbytes) + graph
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + nbytes)
    return path


@pytest.mark.parametrize("mode", ["always", "never"])
def test_copy_in_little_memory(tmp_path: Path, mode: str) -> None:
    """Three tensors of 64 MiB pass through a process with room for 24 MiB more than it starts with."""
    source = sharded(tmp_path, 3, 64 * MIB)
    _, nbytes, files = copy(source, tmp_path / "out.onnx", mode, 24 * MIB)
    assert nbytes >= 3 * 64 * MIB
    assert files == (2 if mode == "always" else 1)
    result = read_model(tmp_path / "out.onnx")
    for shard, tensor in enumerate(result.proto.graph.initializer):
        view = result.weights.view(tensor)
        assert bytes(view[:64]) == bytes([shard]) * 64
        assert bytes(view[-64:]) == bytes(64)


def test_inline_source_in_little_memory(tmp_path: Path) -> None:
    """The same for weights inside of the .onnx file."""
    source = inline(tmp_path / "in.onnx", 96 * MIB)
    _, nbytes, files = copy(source, tmp_path / "out.onnx", "auto", 24 * MIB)
    assert (nbytes, files) == (source.stat().st_size, 1)


def test_inline_file_beyond_two_gib_is_read(tmp_path: Path) -> None:
    """A file larger than protobuf can parse: weights are located without parsing them."""
    source = inline(tmp_path / "in.onnx", 3 << 30)
    model = read_model(source)
    (tensor,) = model.proto.graph.initializer
    place = model.weights.source(tensor)
    assert isinstance(place, FileSlice)
    assert place.nbytes == 3 << 30
    assert place.offset + place.nbytes == source.stat().st_size


@pytest.mark.slow
def test_eight_gib_in_shards(tmp_path: Path) -> None:
    """Four shards of 2 GiB: automatically external, peak far below the largest tensor."""
    source = sharded(tmp_path, 4, 2 << 30)
    peak, nbytes, files = copy(source, tmp_path / "out.onnx", "auto", 64 * MIB)
    assert files == 2
    assert nbytes > 8 << 30
    assert peak < 250
    shell = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    offsets = [int(tensor.external_data[1].value) for tensor in shell.graph.initializer]
    assert offsets == [index * (2 << 30) for index in range(4)]


@pytest.mark.slow
def test_three_gib_inline_become_external(tmp_path: Path) -> None:
    """What came as one file beyond 2 GiB leaves as a model that everybody can read."""
    source = inline(tmp_path / "in.onnx", 3 << 30)
    peak, _, files = copy(source, tmp_path / "out.onnx", "auto", 64 * MIB)
    assert files == 2
    assert peak < 250
    onnx.checker.check_model(tmp_path / "out.onnx")
