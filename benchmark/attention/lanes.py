"""Processes that measure: what each is told, and what its environment must say before a library is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmark.attention.plan import Plan, write_plan
from benchmark.attention.results import Lane, read_lanes

LIBRARIES: Final = ("ours", "torch", "onnxruntime", "openvino")

HOLDABLE: Final = ("ours", "torch")
"""ONNX Runtime and OpenVINO choose their instructions by themselves: no setting holds them to a lesser set."""

_HELD: Final = {
    "avx2": {
        "QFA_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}


def lane_environment(threads: int, held: str) -> dict[str, str]:
    """Threads that do not spin while others are measured; large pages for everybody's buffers; the set to hold to."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        **(_HELD.get(held, {"QFA_ISA": held}) if held else {}),
    }


def run_lane(plan: Plan) -> Lane:
    """Runs one process to its end; what it prints is printed."""
    with tempfile.TemporaryDirectory() as folder:
        plan_path = Path(folder, "plan.json")
        write_plan(plan_path, plan)
        subprocess.run(
            [sys.executable, "-m", "benchmark.attention.measure", str(plan_path)],
            env={**os.environ, **lane_environment(plan.threads, plan.held)},
            check=True,
        )
    return read_lanes(Path(plan.output))[0]
