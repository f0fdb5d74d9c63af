"""The custom-operator library and sessions of ONNX Runtime that use it."""

from qfa_passes.runtime.doctor import DoctorReport, run_doctor
from qfa_passes.runtime.library import get_library_path
from qfa_passes.runtime.session import create_session

__all__ = ["DoctorReport", "create_session", "get_library_path", "run_doctor"]
