"""Reads the protobuf wire format of a model without its large tensors: their bytes are located, not loaded.

Only three levels are understood: ModelProto.graph, GraphProto.initializer and TensorProto.raw_data. Everything else is
copied unseen into the shell and checked by the protobuf library afterwards.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from qfa_passes.core.weights import INLINE_LIMIT
from qfa_passes.core.wire_format import (
    GRAPH_INITIALIZER,
    LENGTH_DELIMITED,
    MODEL_GRAPH,
    TENSOR_RAW_DATA,
    field_head,
)
from qfa_passes.errors import InvalidModelError, LimitExceededError
from qfa_passes.load.limits import Limits
from qfa_passes.load.source import ByteSource

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, LENGTH_DELIMITED, 5
_WINDOW: Final = 1 << 18
_FIELDS_PER_NODE: Final = 4
"""Entries of a graph (initializers, value information and their fields) that are allowed for each allowed node."""


@dataclass(frozen=True, slots=True)
class RawRange:
    """Where the bytes of one initializer are; ``index`` is its place among the graph's initializers."""

    index: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Scan:
    """A serialized ModelProto without the raw data of large initializers, and where those are."""

    shell: bytes
    ranges: tuple[RawRange, ...]


@dataclass(frozen=True, slots=True)
class _Field:
    """One field: its number and wire type; it starts at ``start``, its payload spans ``payload`` to ``end``."""

    number: int
    kind: int
    start: int
    payload: int
    end: int


def scan_model(source: ByteSource, limits: Limits) -> Scan:
    """Splits a serialized model into a shell and the places of its large initializers.

    Args:
        source: The serialized ModelProto.
        limits: ``shell_bytes`` bounds the shell, ``nodes`` the entries of the graph: an empty node takes two bytes in
            the file and 160 in memory.

    Raises:
        InvalidModelError: The bytes are no protobuf message, or end too early.
        LimitExceededError: The shell alone is too large.
    """
    reader = _Reader(source, _FIELDS_PER_NODE * limits.nodes)
    ranges: list[RawRange] = []
    shell = _Pieces()
    count = 0
    for field in reader.fields(0, source.size):
        if (field.number, field.kind) != (MODEL_GRAPH, _BYTES):
            shell.keep(field.start, field.end)
            continue
        graph = _Pieces()
        for inner in reader.fields(field.payload, field.end):
            if (inner.number, inner.kind) != (GRAPH_INITIALIZER, _BYTES):
                graph.keep(inner.start, inner.end)
                continue
            _keep_initializer(reader, inner, graph, ranges, count)
            count += 1
        shell.nest(MODEL_GRAPH, graph)
    if shell.nbytes > limits.shell_bytes:
        raise LimitExceededError(
            f"the model needs {shell.nbytes:,} bytes of memory besides its large initializers",
            why=f"at most {limits.shell_bytes:,} are allowed",
            hint="store weights as initializers, not as Constant nodes, or raise Limits.shell_bytes",
        )
    return Scan(shell.join(source), tuple(ranges))


def _keep_initializer(
    reader: "_Reader", field: _Field, graph: "_Pieces", ranges: list[RawRange], index: int
) -> None:
    """Adds one initializer to the graph, without its raw data if that is large."""
    if field.end - field.payload <= INLINE_LIMIT:
        graph.keep(field.start, field.end)
        return
    tensor = _Pieces()
    found = False
    for inner in reader.fields(field.payload, field.end):
        if (inner.number, inner.kind) != (TENSOR_RAW_DATA, _BYTES):
            tensor.keep(inner.start, inner.end)
            continue
        if found:
            raise InvalidModelError(
                f"initializer number {index} has its raw data twice",
                hint="export the model again; no exporter writes this",
            )
        found = True
        nbytes = inner.end - inner.payload
        if nbytes > INLINE_LIMIT:
            ranges.append(RawRange(index, inner.payload, nbytes))
        else:
            tensor.keep(inner.start, inner.end)
    graph.nest(GRAPH_INITIALIZER, tensor)


class _Pieces:
    """A message under construction: ranges of the source and literal bytes, in order."""

    def __init__(self) -> None:
        """Starts empty."""
        self.parts: list[tuple[int, int] | bytes] = []
        self.nbytes = 0

    def keep(self, start: int, end: int) -> None:
        """Appends a range of the source, joined to the range before it where possible."""
        self.nbytes += end - start
        if self.parts:
            last = self.parts[-1]
            if isinstance(last, tuple) and last[1] == start:
                self.parts[-1] = (last[0], end)
                return
        self.parts.append((start, end))

    def nest(self, number: int, message: "_Pieces") -> None:
        """Appends a message as a field."""
        head = field_head(number, message.nbytes)
        self.parts.append(head)
        self.parts.extend(message.parts)
        self.nbytes += len(head) + message.nbytes

    def join(self, source: ByteSource) -> bytes:
        """Reads the ranges and returns the message."""
        return b"".join(
            part if isinstance(part, bytes) else source.read(part[0], part[1] - part[0])
            for part in self.parts
        )


class _Reader:
    """Decodes fields through a window of the source, so that skipped payloads are never read."""

    def __init__(self, source: ByteSource, budget: int) -> None:
        """Starts with an empty window; ``budget`` fields may be read in all."""
        self.source = source
        self.budget = budget
        self.window = b""
        self.base = 0

    def fields(self, position: int, end: int) -> Iterator[_Field]:
        """Yields the fields of the message that spans ``position`` to ``end``."""
        while position < end:
            self.budget -= 1
            if self.budget < 0:
                raise LimitExceededError(
                    "the model's graph has too many entries",
                    why=f"the limit was crossed at byte {position:,}",
                    hint="if the model really is this large, raise Limits.nodes",
                )
            start = position
            tag, position = self.varint(position, end)
            number, kind = tag >> 3, tag & 7
            payload = position
            if kind == _VARINT:
                _, position = self.varint(position, end)
            elif kind == _BYTES:
                length, payload = self.varint(position, end)
                position = payload + length
            elif kind == _FIXED64:
                position += 8
            elif kind == _FIXED32:
                position += 4
            else:
                raise _not_protobuf(start, f"unknown wire type {kind}")
            if number == 0:
                raise _not_protobuf(start, "field number 0")
            if position > end:
                raise _not_protobuf(start, f"a field reaches {position - end:,} bytes past the end")
            yield _Field(number, kind, start, payload, position)

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Decodes one number; returns it and the position after it."""
        index = position - self.base
        if index < 0 or index + 10 > len(self.window):
            self.base, index = position, 0
            self.window = self.source.read(position, min(_WINDOW, self.source.size - position))
        value = shift = 0
        for byte in self.window[index : index + min(10, end - position)]:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position + shift // 7
        raise _not_protobuf(position, "a number does not end")


def _not_protobuf(position: int, reason: str) -> InvalidModelError:
    """The error for bytes that are not a protobuf message."""
    return InvalidModelError(
        f"the model cannot be decoded at byte {position:,}",
        why=f"{reason}; the file is truncated, damaged or no ONNX model",
        hint="compare its size and checksum with the original, or export it again",
    )
