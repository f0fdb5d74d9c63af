"""Sessions of ONNX Runtime: the operator library registered, weights not doubled, failures explained."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.opspec import DOMAIN
from qfa_passes.errors import RuntimeFailureError
from qfa_passes.runtime.host import import_onnxruntime
from qfa_passes.runtime.library import get_library_path
from qfa_passes.runtime.weight_placement import PlacedWeights, place_weights

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

Optimization = Literal["none", "basic", "extended", "all"]

_LEVELS: Final[dict[Optimization, str]] = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_WEIGHTS_FOLDER: Final = "session.model_external_initializers_file_folder_path"
_SILENT: Final = 4  # failures come back as exceptions; the log would only say them twice

_HINTS: Final = (
    (
        "is not a registered function/op",
        "register the operator library: "
        "session_options.register_custom_ops_library(qfa_passes.get_library_path())",
    ),
    (
        "Domain already set in registry",
        "the operator library was registered twice on one SessionOptions; do it once",
    ),
    (
        "Unsupported model IR version",
        "the model is newer than this ONNX Runtime; run: pip install --upgrade onnxruntime",
    ),
    (
        "requires procfs",
        "this ONNX Runtime reads weight files through /proc; mount it in the sandbox or chroot",
    ),
    (
        "Failed to allocate memory",
        "memory ran out; use shorter inputs or fewer threads",
    ),
    (
        "indices element out of data bounds",
        "a number in the inputs is too large or too small for the model's tables: "
        "was the data made for this model?",
    ),
)
"""Texts of ONNX Runtime and what to do about them."""


def create_session(
    model: LoadedModel | Path | str,
    *,
    use_library: bool = True,
    threads: int | None = None,
    optimization: Optimization = "all",
    prepack: bool = True,
    config: Mapping[str, str] | None = None,
) -> "InferenceSession":
    """Creates a session on the CPU.

    Args:
        model: A loaded model, whose weights are mapped from their files, or the path of a model file.
        use_library: Register the operator library; False runs the function bodies that the model carries.
        threads: Threads of one operator; None leaves it to ONNX Runtime.
        optimization: Level of ONNX Runtime's graph optimizer.
        prepack: Let matrix products keep a packed copy of their weights: faster runs, one more copy in memory.
            Turn it off for a few runs of a large model.
        config: Further session configuration entries.

    Raises:
        LibraryError: The operator library is missing or does not load.
        RuntimeFailureError: ONNX Runtime refuses the model.
    """
    ort = import_onnxruntime()
    options: SessionOptions = ort.SessionOptions()
    options.log_severity_level = _SILENT
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[optimization])
    if threads is not None:
        options.intra_op_num_threads = threads
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    placed = place_weights(model) if isinstance(model, LoadedModel) else None
    if use_library and (placed is None or _uses_operator(placed)):
        options.register_custom_ops_library(get_library_path())
    keep_alive = _attach(ort, options, placed) if placed else None
    source = placed.proto.SerializeToString() if placed else str(model)
    try:
        session: InferenceSession = ort.InferenceSession(
            source, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no other base class
        raise explain_failure(f"ONNX Runtime does not load {_name(model)}", error) from error
    del keep_alive
    return session


def explain_failure(what: str, error: Exception) -> RuntimeFailureError:
    """Turns an exception of ONNX Runtime into an error that says what to do, where that is known.

    Args:
        what: What was tried.
        error: What ONNX Runtime raised.
    """
    text = str(error).strip()
    hint = next((hint for part, hint in _HINTS if part in text), "")
    return RuntimeFailureError(what, why=text, hint=hint)


def _attach(ort: Any, options: "SessionOptions", placed: PlacedWeights) -> list[Any]:
    """Tells the session where the weights are; the result must outlive the session's creation."""
    if placed.folder is not None:
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(placed.folder))
    values = [
        ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, element_type)
        for array, element_type in placed.arrays.values()
    ]
    if values:
        options.add_external_initializers(list(placed.arrays), values)
    return values


def _uses_operator(placed: PlacedWeights) -> bool:
    return any(entry.domain == DOMAIN for entry in placed.proto.opset_import)


def _name(model: LoadedModel | Path | str) -> str:
    path = model.path if isinstance(model, LoadedModel) else model
    return f"'{path}'" if path else "the model"
