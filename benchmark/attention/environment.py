"""What a measurement ran on."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Final

from benchmark.attention.plan import Plan
from qfa_passes.runtime.environment import describe_environment, library_or_none, package_version
from qfa_passes.runtime.instruction_sets import read_library_facts

_FEATURES: Final = (
    ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8"),
    ("amx_bf16", "amx_fp16", "asimddp", "i8mm", "sve"),
)


def describe(plan: Plan) -> dict[str, str]:
    """Versions, processor, features that matter to attention, threads, and what torch says it uses."""
    library = library_or_none()
    facts = describe_environment(library)
    if library is not None:
        facts["qfa-passes"] = read_library_facts(library).version
    facts["processor"] = processor_name()
    facts["features"] = " ".join(processor_features())
    facts["threads"] = str(plan.threads)
    facts["on processors"] = " ".join(map(str, sorted(os.sched_getaffinity(0))))
    for package in ("torch", "torchao", "openvino"):
        facts[package] = package_version(package)
    if importlib.util.find_spec("torch") is not None and "torch" in plan.libraries:
        import torch

        facts["torch uses"] = torch.backends.cpu.get_cpu_capability()
    return facts


def processor_name() -> str:
    """As the system calls it."""
    return _cpuinfo("model name") or _cpuinfo("CPU part") or "unknown"


def processor_features() -> list[str]:
    """Of those that kernels here or there make use of."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [name for names in _FEATURES for name in names if name in flags]


def _cpuinfo(key: str) -> str:
    path = Path("/proc/cpuinfo")
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
