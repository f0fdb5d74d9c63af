"""Says what a file is when it is not an ONNX model: protobuf accepts surprisingly much, even an empty file."""

from typing import Final

from qfa_passes.errors import InvalidModelError

_SIGNATURES: Final = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"PK\x03\x04", "a ZIP archive (or a PyTorch file, which is one)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x7fELF", "a program or library"),
    (b"GGUF", "a GGUF model"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"version https://git-lfs", "a Git LFS pointer; run: git lfs pull"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array"),
)


def describe(head: bytes, size: int | None = None) -> str:
    """Names the kind of a file by its first bytes; an empty string if it is unknown."""
    if not head or size == 0:
        return "an empty file"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[4:8] in (b"TFL3", b"ORTM"):
        return "a TensorFlow Lite or ORT-format model"
    if len(head) > 9 and head[8:9] == b"{" and head[7] == 0:
        return "a safetensors file"
    start = head.lstrip()[:32].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page; was the download refused?"
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "a text file"
    return ""


def not_a_model(where: str, head: bytes, why: str) -> InvalidModelError:
    """Returns the error for bytes that are no ONNX model."""
    kind = describe(head)
    return InvalidModelError(
        f"{where} is not an ONNX model",
        why=f"it is {kind}" if kind else why,
        hint="give the path of a binary .onnx file",
    )
