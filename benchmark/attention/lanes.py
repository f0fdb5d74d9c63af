"""Processes that measure: what each is told, and what its environment must say before a library is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmark.attention.plan import Plan, write_plan
from benchmark.attention.results import CaseResult, Lane, read_lanes

LIBRARIES: Final = ("ours", "torch", "onnxruntime", "openvino")

HOLDABLE: Final = ("ours", "torch")
"""ONNX Runtime and OpenVINO choose their instructions by themselves: no setting holds them to a lesser set."""

HELD: Final = {
    "avx2": ("avx2", "AVX2", "AVX2"),
    "avxvnni": ("avx2", "AVX2_VNNI", "AVX2"),
    "avx512vnni": ("avx512", "AVX512_CORE_VNNI", "AVX512"),
}
"""Sets to hold everyone to: what torch's own kernels, oneDNN and MKL call them."""


def lane_environment(threads: int, held: str) -> dict[str, str]:
    """Threads that do not spin while others are measured; large pages for everybody's buffers; the set to hold to."""
    count = str(threads)
    sets = {}
    if held:
        torch, onednn, mkl = HELD[held]
        sets = {
            "QFA_ISA": held,
            "ATEN_CPU_CAPABILITY": torch,
            "ONEDNN_MAX_CPU_ISA": onednn,
            "MKL_ENABLE_INSTRUCTIONS": mkl,
        }
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "0",
        "KMP_BLOCKTIME": "0",
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        **sets,
    }


def run_lane(plan: Plan) -> Lane:
    """Runs a process to its end; what it prints is printed.

    Where a library takes the process down, another one goes on behind the case in which it happened.

    Raises:
        RuntimeError: Not even the limits of the machine could be measured.
    """
    lane: Lane | None = None
    cases = plan.cases
    while cases:
        code, part = _run_process(replace(plan, cases=cases))
        if part is None:
            raise RuntimeError(f"the measuring process ended with {code} before its first case")
        done = part.cases
        rest = cases[len(done) :]
        if rest:
            print(f"{rest[0].label}: the process ended with {code}", flush=True)
            done = (*done, CaseResult(rest[0], {}, {"everyone": f"the process ended with {code}"}))
        lane = replace(lane or part, cases=(*(lane.cases if lane else ()), *done))
        cases = rest[1:]
    assert lane is not None
    return lane


def _run_process(plan: Plan) -> tuple[int, Lane | None]:
    with tempfile.TemporaryDirectory() as folder:
        plan_path, output = Path(folder, "plan.json"), Path(folder, "results.json")
        write_plan(plan_path, replace(plan, output=str(output)))
        code = subprocess.run(
            [sys.executable, "-m", "benchmark.attention.measure", str(plan_path)],
            env={**os.environ, **lane_environment(plan.threads, plan.held)},
            check=False,
        ).returncode
        return code, read_lanes(output)[0] if output.exists() else None
