"""ONNX Runtime itself: imported when first needed, and recent enough."""

import re
from types import ModuleType
from typing import Final

from qfa_passes.errors import RuntimeFailureError

OLDEST: Final = (1, 24)
_INSTALL: Final = "run: pip install --upgrade onnxruntime"


def import_onnxruntime() -> ModuleType:
    """Imports onnxruntime.

    Raises:
        RuntimeFailureError: It is missing, broken or older than 1.24.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeFailureError(
            "ONNX Runtime cannot be imported", why=str(error), hint=_INSTALL
        ) from error
    version = str(onnxruntime.__version__)
    found = re.match(r"(\d+)\.(\d+)", version)
    if found and (int(found[1]), int(found[2])) < OLDEST:
        raise RuntimeFailureError(
            f"ONNX Runtime {version} is too old",
            why=f"version {OLDEST[0]}.{OLDEST[1]} or later is needed",
            hint=_INSTALL,
        )
    module: ModuleType = onnxruntime
    return module
