"""custom_ops/bench/limits.cc, built on first use: peaks, reading in streams, threads that sleep between runs."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).parents[2] / "custom_ops" / "bench" / "limits.cc"
_FLAGS: Final = ("-std=c++20", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")


@functools.cache
def limits_library() -> ctypes.CDLL:
    """Builds the library with the compiler of the system (or $CXX) unless it is there, and loads it."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"libqfa_limits-{os.getuid()}-{digest}.so"
    if not path.exists():
        fresh = path.with_suffix(f".{os.getpid()}")
        compiler = os.environ.get("CXX", "c++")
        subprocess.run([compiler, *_FLAGS, str(SOURCE), "-o", str(fresh)], check=True)
        fresh.replace(path)
    library = ctypes.CDLL(str(path))
    library.qfa_limits_peak_name.argtypes = [ctypes.c_int32]
    library.qfa_limits_peak_name.restype = ctypes.c_char_p
    library.qfa_limits_peak.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_int64]
    library.qfa_limits_peak.restype = ctypes.c_double
    library.qfa_limits_read.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    library.qfa_limits_read.restype = ctypes.c_uint64
    library.qfa_limits_pool.argtypes = [ctypes.c_int32]
    library.qfa_limits_pool.restype = ctypes.c_void_p
    return library


@functools.cache
def pool(threads: int) -> int:
    """The threads that kernel and limits run on; they last as long as the process."""
    return int(limits_library().qfa_limits_pool(threads))
