"""The ctypes binding is laid out as the header says, and the kernel computes through it."""

import ctypes
import re
import shutil
import subprocess

import ml_dtypes
import numpy as np
import pytest

from benchmark.attention import c_abi
from benchmark.attention.c_abi import Call, KernelError
from benchmark.attention.cache import Cache
from benchmark.attention.case import (
    Case,
    Operands,
    checked_rows,
    exact,
    make_operands,
    normalized_error,
)
from benchmark.attention.limits import measure_peaks
from benchmark.attention.native import limits_library, pool
from benchmark.attention.scratch import CountingAllocator

INCLUDE = c_abi.HEADER.parents[1]
STRUCTS = {
    "qfa_tensor": c_abi.TensorView,
    "qfa_target": c_abi.Target,
    "qfa_codes": c_abi.Codes,
    "qfa_mask": c_abi.Mask,
    "qfa_executor": c_abi.Executor,
    "qfa_allocator": c_abi.Allocator,
    "qfa_attention": c_abi.Attention,
}


def compiler() -> str:
    found = shutil.which("cc") or shutil.which("c++")
    if found is None:
        pytest.skip("needs a compiler")
    return found


def test_structs_have_the_layout_of_the_header(tmp_path):
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        lines += [
            f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));'
            for field, *_ in struct._fields_
        ]
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <qfa/qfa.h>\n"
        "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n"
    )
    program = tmp_path / "layout"
    subprocess.run([compiler(), f"-I{INCLUDE}", str(source), "-o", str(program)], check=True)
    printed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
    expected = {}
    for name, struct in STRUCTS.items():
        expected[name] = ctypes.sizeof(struct)
        expected |= {
            f"{name}.{field}": getattr(struct, field).offset for field, *_ in struct._fields_
        }
    assert {key: int(size) for key, size in map(str.split, printed.splitlines())} == expected


def test_no_field_of_the_header_is_left_out():
    text = re.sub(r"/\*.*?\*/", "", c_abi.HEADER.read_text(), flags=re.DOTALL)
    body = text.split("typedef struct qfa_attention {")[1].split("} qfa_attention;")[0]
    names = [
        re.split(r"[\s*]+", declared.strip())[-1]
        for line in body.split(";")
        for declared in line.split(",")
        if declared.strip()
    ]
    assert names == [field for field, *_ in c_abi.Attention._fields_]


def test_numbers_come_from_the_header():
    assert c_abi.COMPUTE["int8"] == 0
    assert c_abi.KV_FORMAT["fp8e5m2"] == 4


def test_a_refusal_carries_the_message_of_the_kernel():
    call = Call(*np.ones((3, 1, 1, 4, 8), np.float32), scale=float("nan"))
    with pytest.raises(KernelError, match="scale"):
        call.prepare()()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("kind", "worst"), [("int8", 1e-3), ("int4", 5e-2), ("float", 1e-10)])
def test_a_step_with_a_cache_is_near_float64(kind, worst, threads):
    compiler()
    case = Case("", 2, 4, 2, 64, 3, 200, True, True)
    operands = make_operands(case)
    cache = Cache(kind, case, operands)
    cache.fill(case, operands, threads)
    call = cache.step(case, operands, threads)
    run = call.prepare()
    run()
    first = call.output.copy()
    wanted = exact(case, operands)
    assert normalized_error(first[:, :, checked_rows(case)], wanted) < worst
    # The same tokens at the same place: what is timed is one step, not a growing cache.
    run()
    np.testing.assert_array_equal(call.output, first)


def test_a_cache_of_bfloat16_has_half_the_bytes():
    case = Case("", 1, 2, 2, 64, 1, 64, True, True)
    operands = make_operands(case)
    narrow = Operands(
        *(a.astype(ml_dtypes.bfloat16) for a in (operands.query, operands.key, operands.value))
    )
    assert 2 * Cache("float", case, narrow).bytes == Cache("float", case, operands).bytes


def test_scratch_is_counted_and_given_back():
    counter = CountingAllocator()
    case = Case("", 1, 2, 1, 64, 70, 70, False)
    operands = make_operands(case)
    call = Call(operands.query, operands.key, operands.value, scale=case.scale)
    call.use_allocator(counter.allocate, counter.release)
    call.prepare()()
    assert counter.most > 70 * 64
    assert not counter._sizes


def test_all_bytes_of_a_region_are_read():
    compiler()
    library = limits_library()
    region = np.zeros(1 << 16, np.uint64)
    for index in (0, 20_000, 40_000, (1 << 16) - 8):
        region[index] = 1 << 40
        assert library.qfa_limits_read(pool(1), region.ctypes.data, region.nbytes) == 1 << 40
        region[index] = 0


def test_some_peak_is_found():
    compiler()
    assert max(measure_peaks(1).values()) > 1e9
