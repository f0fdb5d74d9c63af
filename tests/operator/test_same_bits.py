"""Thread counts, instruction sets, sessions and concurrent runs leave every bit alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qfa_passes.runtime.instruction_sets import read_library_facts
from qfa_passes.runtime.library import get_library_path
from tests.operator.sessions import VALID, one_node, open_session, qkv, run

INPUTS = qkv(2, 70, 150, 48)
MODEL = one_node(INPUTS, VALID | {"is_causal": 1})


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_threads(threads: int) -> None:
    (reference,) = run(MODEL, INPUTS)
    session = open_session(MODEL, threads=threads)
    for _ in range(3):
        np.testing.assert_array_equal(session.run(None, INPUTS)[0], reference)


def test_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    sets = read_library_facts(Path(get_library_path())).instruction_sets
    outputs = {}
    for instruction_set in sets:
        if instruction_set.usable:
            monkeypatch.setenv("QFA_ISA", instruction_set.name)
            outputs[instruction_set.name] = run(MODEL, INPUTS)[0]
    assert "scalar" in outputs
    for output in outputs.values():
        np.testing.assert_array_equal(output, outputs["scalar"])


def test_one_session_in_many_threads() -> None:
    session = open_session(MODEL, threads=2)
    (reference,) = session.run(None, INPUTS)
    with ThreadPoolExecutor(4) as pool:
        for output in pool.map(lambda _: session.run(None, INPUTS)[0], range(16)):
            np.testing.assert_array_equal(output, reference)
