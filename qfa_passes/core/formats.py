"""The words for formats, granularities and modes, shared by command line, plan and operator."""

from enum import StrEnum
from typing import Final

INT8_BOUND: Final = 5e-4
"""NMSE that a site may have in int8 unless an option says otherwise (docs/operator.md)."""


class AttentionFormat(StrEnum):
    """Arithmetic of the two products of attention."""

    NONE = "none"  # left as it is
    INT8 = "int8"
    FLOAT = "float"  # fused, nothing is quantized


class CacheFormat(StrEnum):
    """What a key/value cache holds."""

    FLOAT = "float"
    INT8 = "int8"
    INT4 = "int4"
    FP8E4M3 = "fp8e4m3"
    FP8E5M2 = "fp8e5m2"


class LinearFormat(StrEnum):
    """Arithmetic of linear layers."""

    NONE = "none"


class ScaleMode(StrEnum):
    """Who finds the quantization steps: the operator, per token, or calibration."""

    DYNAMIC = "dynamic"
    STATIC = "static"


class Rotation(StrEnum):
    """Rotation of Q and K before quantization."""

    NONE = "none"
    HADAMARD = "hadamard"


class VerifyLevel(StrEnum):
    """How much `optimize` checks: nothing, every site and the outputs, or more of it and every pass."""

    OFF = "off"
    FAST = "fast"
    FULL = "full"
