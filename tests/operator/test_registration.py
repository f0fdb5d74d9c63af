"""How the library meets ONNX Runtime: plain scripts, repeated registration, a runtime that is too old."""

import ctypes
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from qfa_passes.runtime.library import get_library_path
from tests.operator.sessions import one_node, qkv

PLAIN_SCRIPT = """
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.register_custom_ops_library(sys.argv[1])
session = onnxruntime.InferenceSession(sys.argv[2], options)
q, kv = numpy.ones((1, 4, 3, 16), "f"), numpy.ones((1, 2, 3, 16), "f")
output = session.run(None, {"query": q, "key": kv, "value": kv})[0]
assert "qfa_passes" not in sys.modules
assert abs(output - 1).max() < 1e-5
print(output.shape)
"""


def test_plain_script(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(one_node(qkv()).SerializeToString())
    result = subprocess.run(
        [sys.executable, "-c", PLAIN_SCRIPT, get_library_path(), str(model)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert result.stdout.strip() == "(1, 4, 3, 16)"


def test_one_options_object_serves_many_sessions() -> None:
    inputs = qkv()
    model = one_node(inputs).SerializeToString()
    options = ort.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    outputs = [ort.InferenceSession(model, options).run(None, inputs)[0] for _ in range(3)]
    np.testing.assert_array_equal(outputs[0], outputs[2])


def test_registering_twice_is_refused_by_the_runtime() -> None:
    options = ort.SessionOptions()
    for _ in range(2):
        options.register_custom_ops_library(get_library_path())
    with pytest.raises(Exception, match="Domain already set in registry"):
        ort.InferenceSession(one_node(qkv()).SerializeToString(), options)


def test_runtime_too_old() -> None:
    """The library is given a runtime whose newest table is version 1."""
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
    get_version = ctypes.CFUNCTYPE(ctypes.c_void_p)
    create_status = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    said: list[str] = []

    class ApiBase(ctypes.Structure):
        _fields_ = (("get_api", get_api), ("get_version", get_version))

    @create_status
    def remember(_code: int, text: bytes) -> int:
        said.append(text.decode())
        return 4242

    version_text = ctypes.create_string_buffer(b"1.4.0")
    table = (ctypes.c_void_p * 1)(ctypes.cast(remember, ctypes.c_void_p))
    base = ApiBase(
        get_api(lambda version: ctypes.addressof(table) if version == 1 else None),
        get_version(lambda: ctypes.addressof(version_text)),
    )
    register = ctypes.CDLL(get_library_path()).RegisterCustomOps
    register.restype = ctypes.c_void_p
    register.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    assert register(None, ctypes.addressof(base)) == 4242
    assert "ONNX Runtime 1.17 or later" in said[0]
    assert "this is 1.4.0" in said[0]
    assert "pip install --upgrade onnxruntime" in said[0]
