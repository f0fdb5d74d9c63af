"""Records to JSON text that every parser accepts."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np


def to_json(value: object) -> str:
    """Returns indented JSON (RFC 8259) of dataclasses, mappings, sequences, enums and numbers.

    JSON has no NaN and no infinities: they become the strings ``NaN``, ``Infinity`` and
    ``-Infinity``, so that a broken measure is not mistaken for a missing one (null).
    """
    return json.dumps(plain(value), indent=2, ensure_ascii=True, allow_nan=False)


def plain(value: object) -> Any:
    """Returns the value as dict, list, str, int, float, bool or None, without NaN or infinity."""
    if isinstance(value, Enum):
        return plain(value.value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else _NON_FINITE[str(value)]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


_NON_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
