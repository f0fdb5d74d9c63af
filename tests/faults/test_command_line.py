"""Hostile and broken input through the command line: exit code, message, no traceback, nothing written."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qfa_passes.__main__ import main
from tests.load.small_models import (
    chain,
    external_tensor,
    model_of,
    two_layers,
    with_initializer,
    write_external,
)
from tests.load.test_structure import function, nested_bytes, relu, with_functions

DATA = bytes(4096)


def saved(folder: Path, content: bytes | onnx.ModelProto) -> Path:
    """Writes bytes or a model as they are."""
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def symlinked(folder: Path) -> Path:
    (folder / "real").write_bytes(DATA)
    (folder / "w.data").symlink_to("real")
    return write_external(folder, "w.data")


def hard_linked(folder: Path) -> Path:
    path = write_external(folder, "w.data", DATA)
    os.link(folder / "w.data", folder / "second")
    return path


def behind_fifo(folder: Path) -> Path:
    os.mkfifo(folder / "w.data")
    return write_external(folder, "w.data")


def newer(field: str) -> onnx.ModelProto:
    model = two_layers()
    if field == "opset":
        model.opset_import[0].version = 1000
    else:
        model.ir_version = 1000
    return model


def without_opset() -> onnx.ModelProto:
    model = two_layers()
    del model.opset_import[:]
    return model


def raw(dims: list[int], nbytes: int) -> onnx.ModelProto:
    return with_initializer(
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(nbytes))
    )


# By number of the fault: how to make the model, the exit code, a word of the message.
CASES: dict[str, tuple[Callable[[Path], Path], int, str]] = {
    "1 parent folder": (lambda f: write_external(f, "../../etc/passwd"), 5, "E101"),
    "2 hidden parent folder": (lambda f: write_external(f, "sub/../../x"), 5, "E101"),
    "3 absolute": (lambda f: write_external(f, "/etc/passwd"), 5, "E101"),
    "3 drive": (lambda f: write_external(f, "C:\\x"), 5, "E101"),
    "4 symbolic link": (symlinked, 5, "symbolic link"),
    "5 hard link": (hard_linked, 5, "hard link"),
    "6 negative offset": (lambda f: write_external(f, "w.data", DATA, offset=-8), 5, "offset"),
    "6 sum wraps": (lambda f: write_external(f, "w.data", DATA, offset=2**64 - 4096), 5, "offset"),
    "8 budget": (
        lambda f: saved(f, with_initializer(external_tensor("w.data", (2**40,)))), 5, "E104"
    ),
    "9 short file": (lambda f: write_external(f, "w.data", DATA[1:]), 5, "w.data"),
    "10 pipe": (behind_fifo, 5, "pipe"),
    "11 empty": (lambda f: saved(f, b""), 5, "empty file"),
    "11 text": (lambda f: saved(f, b"hello\n"), 5, "text"),
    "11 image": (lambda f: saved(f, b"\x89PNG\r\n\x1a\n" + bytes(40)), 5, "PNG"),
    "11 archive": (lambda f: saved(f, b"PK\x03\x04" + bytes(40)), 5, "ZIP"),
    "12 truncated": (lambda f: saved(f, two_layers().SerializeToString()[:5000]), 5, "truncated"),
    "14 overflow": (lambda f: saved(f, raw([2**32, 2**32], 4)), 5, "2**62"),
    "14 negative": (lambda f: saved(f, raw([-1], 4)), 5, "negative"),
    "15 length": (lambda f: saved(f, raw([2], 7)), 5, "7 bytes"),
    "16 nesting": (lambda f: saved(f, nested_bytes(10_000)), 5, "nested"),
    "16 recursion": (lambda f: saved(f, with_functions([function("f", ["f"])])), 5, "calls itself"),
    "17 cycle": (lambda f: saved(f, chain([relu("y", "y")], ["x"], ["y"])), 5, "cycle"),
    "17 duplicate": (lambda f: saved(f, chain([relu("x", "y")] * 2, ["x"], ["y"])), 5, "twice"),
    "17 order": (
        lambda f: saved(f, chain([relu("a", "y"), relu("x", "a")], ["x"], ["y"])), 5, "before"
    ),
    "18 control characters": (
        lambda f: saved(f, chain([relu("\x1b[2Jno", "y")], ["x"], ["y"])), 5, "\\x1b[2Jno"
    ),
    "19 opset": (lambda f: saved(f, newer("opset")), 6, "opset 1000"),
    "19 format": (lambda f: saved(f, newer("ir")), 6, "IR version 1000"),
    "19 no opset": (lambda f: saved(f, without_opset()), 5, "opset import"),
    "no file": (lambda f: f / "missing.onnx", 2, "missing.onnx"),
    "folder": (lambda f: f, 2, "regular file"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("verb", ["optimize", "inspect"])
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, verb: str) -> None:
    build, exit_code, word = CASES[case]
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = build(tmp_path / "in")
    arguments = [verb, str(path)]
    if verb == "optimize":
        arguments += ["-o", str(tmp_path / "out" / "o.onnx")]
    assert main(arguments) == exit_code
    captured = capsys.readouterr()
    flat = " ".join(captured.err.split())
    assert "QFA-E" in flat
    assert word.replace(" ", "") in flat.replace(" ", "")  # lines are wrapped to the terminal
    assert "hint:" in flat
    assert "Traceback" not in captured.out + captured.err
    assert "\x1b[2J" not in captured.err
    assert not list((tmp_path / "out").glob("*onnx*"))
    assert main([*arguments, "--json"]) == exit_code
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["exit_code"] == exit_code


@pytest.mark.parametrize("kind", ["pickle", "bomb", "type", "text"])
def test_data(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Fault 20: calibration data that is hostile or of another kind."""
    path, data = saved(tmp_path, model_with_attention()), tmp_path / "d.npz"
    if kind == "pickle":
        np.savez(data, x=np.array([{}], dtype=object))
    elif kind == "bomb":
        np.savez(data, x=np.zeros(100, np.uint8))
        content = bytearray(data.read_bytes())
        size = content.rindex(b"PK\x01\x02") + 24  # the inflated size in the directory
        content[size : size + 4] = struct.pack("<I", (1 << 31) + 1)
        data.write_bytes(content)
    elif kind == "type":
        np.savez(data, x=np.array(["a"]))
    else:
        data.write_text("not a zip\n")
    arguments = ["optimize", str(path), "-o", str(tmp_path / "o.onnx"), "--calib", str(data)]
    assert main(arguments) == 5
    error = capsys.readouterr().err
    assert "QFA-E10" in error
    assert "Traceback" not in error
    assert not (tmp_path / "o.onnx").exists()


def model_with_attention() -> onnx.ModelProto:
    """Softmax(x x^T) x, as little as is found."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["k"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "k"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "x"], ["y"]),
    ]
    shape = [1, 2, 8, 16]
    return model_of(
        helper.make_graph(
            nodes,
            "attention",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        )
    )


def test_output_in_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Fault 82: the input, links, folders and missing folders as output."""
    path = saved(tmp_path, two_layers())
    before = path.read_bytes()
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    (tmp_path / "other.onnx").write_bytes(b"precious")
    (tmp_path / "away.onnx").symlink_to("other.onnx")
    for target in ("model.onnx", "link.onnx", "away.onnx", "missing/o.onnx", "."):
        assert main(["optimize", str(path), "-o", str(tmp_path / target)]) == 2, target
        error = capsys.readouterr().err
        assert "QFA-E001" in error
        assert "Traceback" not in error
    assert path.read_bytes() == before
    assert (tmp_path / "other.onnx").read_bytes() == b"precious"


@pytest.mark.parametrize("verb", ["optimize", "inspect"])
def test_links_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """Faults 4 and 5: the option that the message names does what it says."""
    (tmp_path / "in").mkdir()
    path = symlinked(tmp_path / "in")
    arguments = [verb, str(path)] + (["--dry-run"] if verb == "optimize" else [])
    assert main(arguments) == 5
    assert "--allow-links-within" in capsys.readouterr().err
    assert main([*arguments, "--allow-links-within", str(tmp_path)]) == 0
    assert main([*arguments, "--allow-links-within", str(tmp_path / "elsewhere")]) == 5
