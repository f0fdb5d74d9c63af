"""Bytes that are no model, or only a part of one (faults 11, 12 and 13)."""

import io
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from qfa_passes.errors import InvalidModelError, QfaError
from qfa_passes.load import read_model
from tests.load.refusals import refused
from tests.load.small_models import two_layers


def archive() -> bytes:
    """A small ZIP file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("data.pkl", b"x" * 100)
    return out.getvalue()


FOREIGN = {
    "empty file": b"",
    "text": b"# Notes\nThis is plain text.\n",
    "text file": b"\n",
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(50),
    "ZIP": archive(),
    "GGUF": b"GGUF\x03\0\0\0" + bytes(64),
    "pickle": pickle.dumps({"a": [1, 2, 3]}),
    "web page": b"<!DOCTYPE html><html><head><title>404</title></head></html>",
    "LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "safetensors": (2).to_bytes(8, "little") + b"{}",
    "NumPy": b"\x93NUMPY\x01\0v\0{'descr': '<f4'}",
    "program": Path("/proc/self/exe").read_bytes()[:4096],
    "JPEG": b"\xff\xd8\xff\xe0" + bytes(20),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files(tmp_path: Path, kind: str) -> None:
    """Named for what they are; an empty file parses as a protobuf, so parsing is not proof."""
    path = tmp_path / "m.onnx"
    path.write_bytes(FOREIGN[kind])
    with refused(InvalidModelError, "m.onnx", "not an ONNX model", kind):
        read_model(path)
    with refused(InvalidModelError, "not an ONNX model", kind):
        read_model(FOREIGN[kind])


def test_empty_objects() -> None:
    """A ModelProto without a graph, a graph without outputs."""
    with refused(InvalidModelError, "no graph"):
        read_model(ModelProto())
    with refused(InvalidModelError, "no graph"):
        read_model(ModelProto(ir_version=10).SerializeToString())
    model = two_layers()
    del model.graph.output[:]
    with refused(InvalidModelError, "no outputs"):
        read_model(model)


def test_every_truncation(tmp_path: Path) -> None:
    """A model cut anywhere is refused: by path, and from memory."""
    raw = two_layers(width=20).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in [*range(0, len(raw), 16), *range(len(raw) - 20, len(raw))]:
        path.write_bytes(raw[:length])
        for source in (path, raw[:length]):
            with pytest.raises(QfaError) as caught:
                read_model(source)
            assert caught.value.exit_code == 5
            assert caught.value.hint


def test_bit_flips() -> None:
    """Damaged models load or are refused; nothing else happens."""
    raw = bytearray(two_layers(width=20).SerializeToString())
    draw = random.Random(7)
    structure = [
        i for i in range(len(raw)) if i < 200 or i > len(raw) - 200 or draw.random() < 0.05
    ]
    refusals = 0
    for position in structure:
        for bit in range(8):
            raw[position] ^= 1 << bit
            try:
                read_model(bytes(raw))
            except QfaError as error:
                refusals += 1
                assert error.exit_code in (5, 6)
            raw[position] ^= 1 << bit
    assert refusals > 500


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(raw: bytes) -> None:
    """No input but a model gets through, and no input crashes."""
    with pytest.raises(QfaError):
        read_model(raw)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_spliced_models(data: st.DataObject) -> None:
    """Pieces of valid models in any order: the scanner and protobuf agree on what they are."""
    raw = two_layers(width=20).SerializeToString()
    cuts = st.integers(0, len(raw))
    spliced = b"".join(
        raw[min(a, b) : max(a, b)]
        for a, b in data.draw(st.lists(st.tuples(cuts, cuts), max_size=4))
    )
    try:
        model = read_model(spliced)
    except QfaError:
        return
    whole = ModelProto.FromString(spliced)
    assert len(whole.graph.initializer) == len(model.proto.graph.initializer)
    assert model.proto.graph.node == whole.graph.node


def test_graph_in_two_parts() -> None:
    """Protobuf joins a field that appears twice; so does the scanner, and indices still fit."""
    model = two_layers()
    second = ModelProto()
    second.graph.initializer.append(model.graph.initializer.pop())
    second.graph.output.append(model.graph.output.pop())
    raw = model.SerializeToString() + second.SerializeToString()
    shell = read_model(raw)
    w2 = shell.proto.graph.initializer[2]
    expected = two_layers().graph.initializer[2].raw_data
    assert bytes(shell.weights.view(w2)) == expected


def test_file_beyond_two_gib(tmp_path: Path) -> None:
    """A sparse 3 GiB file of zeros is refused at once, without reading it."""
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)
    with refused(InvalidModelError, "huge.onnx"):
        read_model(path)


def test_text_is_escaped_in_messages(tmp_path: Path) -> None:
    """File names reach the terminal without their control characters."""
    path = tmp_path / "a\x1b[31m\nb.onnx"
    path.write_bytes(b"hello")
    with refused(InvalidModelError, "\\x1b[31m\\x0ab.onnx"):
        read_model(path)
    with refused(InvalidModelError):
        read_model(np.arange(100).tobytes())
