"""Made-up results."""

from benchmark.attention.case import Case
from benchmark.attention.results import CaseResult, Lane, Scratch, Timing
from benchmark.attention.shapes import decode_case, prefill_case


def timing(*milliseconds: float, wrong: bool = False, size: float = 0.0) -> Timing:
    return Timing(tuple(each / 1e3 for each in milliseconds), 1e-4, wrong, size)


def result(
    case: Case, timings: dict[str, Timing], absent: dict[str, str] | None = None
) -> CaseResult:
    return CaseResult(case, timings, absent or {})


def lane(
    *results: CaseResult, name: str = "native, 1 thread", isa: str = "avx512vnni", threads: int = 1
) -> Lane:
    scratch = [
        Scratch("prefill", 1024, 512, 64, threads, 1000),
        Scratch("prefill", 4096, 512, 64, threads, 1000),
        Scratch("prefill", 512, 1024, 64, threads, 1000),
        Scratch("prefill", 512, 2048, 64, threads, 1000 + 1024 * 128 * threads),
    ]
    peaks = {"avx2 fp32": 1e11, "avx512 fp32": 2e11, "avx512vnni int8": 8e11, "avx2 int8": 2e11}
    reading = {"L2": 1e11, "L3": 8e10, "DRAM": 4e10}
    return Lane(
        name, isa, threads, {"threads": str(threads)}, peaks, reading, results, tuple(scratch)
    )


def prefill_result(
    ours: float, torch: float, *, length: int = 512, causal: bool = False
) -> CaseResult:
    timings = {
        "kernel int8": timing(ours, ours, ours),
        "operator int8": timing(2 * ours, 2 * ours, 2 * ours),
        "torch float32": timing(torch, torch, torch),
        "ORT unfused": timing(4 * ours, 4 * ours, 4 * ours),
    }
    return result(prefill_case("smol", length, causal), timings, {"torchao int8": "no kernel"})


def decode_result(ours: float, reading: float, packed: float) -> CaseResult:
    timings = {
        "kernel int8 cache": timing(ours, size=1e6),
        "reading the int8 cache": timing(reading, size=1e6),
        "kernel int4 cache": timing(packed, size=5e5),
    }
    return result(decode_case("llama-gqa", 1, 1, 2048), timings)
