"""Finds attention in ONNX models, quantizes it and fuses it into one operator, ``ai.qfa::QuantFlashAttention``.

    import qfa_passes
    result = qfa_passes.optimize("model.onnx", output="model.qfa.onnx", format="int8")

Load the result in ONNX Runtime with ``session_options.register_custom_ops_library(qfa_passes.get_library_path())``.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qfa_passes.api import Optimized, compare, doctor, inspect, optimize
    from qfa_passes.runtime.library import get_library_path

# `compare` is what the command line calls verify: that name is taken by the package `qfa_passes.verify`.
__all__ = ["Optimized", "compare", "doctor", "get_library_path", "inspect", "optimize"]


def __getattr__(name: str) -> Any:
    """Imports the API when it is first used, so that ``import qfa_passes`` and ``--help`` stay quick."""
    if name == "get_library_path":
        from qfa_passes.runtime.library import get_library_path

        return get_library_path
    if name in __all__:
        from qfa_passes import api

        return getattr(api, name)
    raise AttributeError(f"module 'qfa_passes' has no attribute {name!r}")
