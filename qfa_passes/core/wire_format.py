"""The few facts about protobuf's wire format that streaming reader and writer share."""

from typing import Final

MODEL_GRAPH: Final = 7
GRAPH_INITIALIZER: Final = 5
TENSOR_RAW_DATA: Final = 9
LENGTH_DELIMITED: Final = 2
"""Wire type of bytes, strings and messages."""

PROTOBUF_LIMIT: Final = (1 << 31) - 1
"""Largest message that protobuf libraries parse."""


def encode_varint(value: int) -> bytes:
    """Encodes a non-negative number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field_head(number: int, length: int) -> bytes:
    """Returns the tag and length before the payload of a length-delimited field."""
    return encode_varint(number << 3 | LENGTH_DELIMITED) + encode_varint(length)
