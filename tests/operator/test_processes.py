"""Processes: forks, copies of the library, exits with sessions open, memory that runs out, many runs."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from qfa_passes.runtime.library import get_library_path
from tests.operator.sessions import Array, one_node, open_session, qkv

linux = pytest.mark.skipif(sys.platform != "linux", reason="fork and /proc are those of Linux")

OPEN = """
import os, resource, sys, threading
import numpy, onnxruntime
from tests.operator.sessions import one_node, open_session, qkv
inputs = qkv(1, 40, 90, 32)
model = one_node(inputs)
session = open_session(model)
reference = session.run(None, inputs)[0]
"""

FORKS = """
children = []
for again in (False, True):
    child = os.fork()
    if child == 0:
        # The session of the parent, and one of its own.
        own = open_session(model, threads=2) if again else session
        same = numpy.array_equal(own.run(None, inputs)[0], reference)
        os._exit(0 if same else 1)
    children.append(child)
assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)
assert numpy.array_equal(session.run(None, inputs)[0], reference)
print("same bits")
"""

EXIT = """
sys.kept = [session, open_session(model, threads=2)]
workers = [threading.Thread(target=kept.run, args=(None, inputs)) for kept in sys.kept * 2]
for worker in workers:
    worker.start()
print("leaving")
"""

NO_MEMORY = """
large = qkv(1, 64, 200_000, 64, heads=1, kv_heads=1)
session = open_session(one_node(large, dict(VALID, num_heads=1, kv_num_heads=1)))
small = {name: array[:, :, :40] for name, array in large.items()}
expected = session.run(None, small)[0]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
try:
    session.run(None, large)
except Exception as error:
    print("refused:", str(error)[:400].replace(chr(10), " "))
else:
    sys.exit("8 MiB were enough for 25 MiB of codes")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert numpy.array_equal(session.run(None, small)[0], expected)
session.run(None, large)
print("and served again")
"""


def finished(script: str) -> str:
    """Runs a script in a process of its own; returns what it printed."""
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@linux
def test_forks() -> None:
    """Neither the session of the parent nor one made by the child fails behind a fork."""
    assert finished(OPEN + FORKS).strip() == "same bits"


def test_exit_with_sessions_open_and_at_work() -> None:
    assert finished(OPEN + EXIT).strip() == "leaving"


@linux
def test_no_memory_is_an_error_and_the_session_lives_on() -> None:
    script = OPEN.replace("import one_node", "import VALID, one_node") + NO_MEMORY
    output = finished(script)
    assert "refused:" in output
    assert "and served again" in output


def test_two_copies_of_the_library(tmp_path: Path) -> None:
    """Each session has its own; both at work at the same time, from threads of their own."""
    inputs = qkv(1, 40, 90, 32)
    model = one_node(inputs).SerializeToString()
    sessions = []
    for name in ("first.so", "second.so"):
        copy = shutil.copy(get_library_path(), tmp_path / name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 2
        options.register_custom_ops_library(str(copy))
        sessions.append(ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]))
    reference = open_session(one_node(inputs)).run(None, inputs)[0]
    with ThreadPoolExecutor(4) as pool:
        for output in pool.map(lambda i: sessions[i % 2].run(None, inputs)[0], range(24)):
            np.testing.assert_array_equal(output, reference)


def test_sixteen_threads_with_shapes_of_their_own() -> None:
    shapes = [(1 + i % 3, 1 + 7 * i, 5 + 90 * (i % 5), 32) for i in range(16)]
    feeds = [qkv(*shape) for shape in shapes]
    session = open_session(one_node(feeds[0]), threads=2)
    references = [session.run(None, feed)[0] for feed in feeds]

    def serve(i: int) -> list[Array]:
        return [session.run(None, feeds[i])[0] for _ in range(4)]

    with ThreadPoolExecutor(16) as pool:
        for outputs, reference in zip(pool.map(serve, range(16)), references, strict=True):
            for output in outputs:
                np.testing.assert_array_equal(output, reference)


@linux
@pytest.mark.slow
def test_a_hundred_thousand_runs_hold_no_memory() -> None:
    """Through the runtime, with shapes that change; the same in C++ is in memory_test.cc."""
    rng = np.random.default_rng(3)
    feeds = [
        qkv(1, int(s), int(t), 16)
        for s, t in zip(rng.integers(1, 6, 50), rng.integers(1, 90, 50), strict=True)
    ]
    session = open_session(one_node(feeds[0]), threads=2)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    settled = 0
    for i in range(100_000):
        session.run(None, feeds[i % len(feeds)])
        if i == 10_000:
            settled = resident()
    assert resident() - settled < 1024
