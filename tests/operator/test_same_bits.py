"""Thread counts, instruction sets, sessions and concurrent runs leave every bit alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from qfa_passes.quant.cache import KeyValueCache
from qfa_passes.runtime.instruction_sets import read_library_facts
from qfa_passes.runtime.library import get_library_path
from tests.operator.caches import cache_node, codings, constants_of, past_of
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


@pytest.mark.parametrize("queries", [1, 4, 20])
@pytest.mark.parametrize("name", codings(64, 80))
def test_caches(name: str, queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every output, over two chunks of keys, in each instruction set and with any number of threads."""
    coding = codings(64, 80)[name]
    inputs = qkv(1, queries, queries, 64)
    inputs["value"] = qkv(1, queries, queries, 80)["value"]
    rng = np.random.default_rng(2)
    past = (rng.standard_normal((1, 2, 1490, n)).astype(np.float32) for n in (64, 80))
    cache = KeyValueCache.of(coding, *past)
    feeds = inputs | past_of(cache) | constants_of(coding)
    model = cache_node(cache, feeds)
    monkeypatch.setenv("QFA_ISA", "scalar")
    reference = run(model, feeds)
    for instruction_set in read_library_facts(Path(get_library_path())).instruction_sets:
        if instruction_set.usable:
            monkeypatch.setenv("QFA_ISA", instruction_set.name)
            for threads in (1, 3):
                for found, wanted in zip(
                    run(model, feeds, threads=threads), reference, strict=True
                ):
                    np.testing.assert_array_equal(found, wanted, instruction_set.name)


def test_one_session_in_many_threads() -> None:
    session = open_session(MODEL, threads=2)
    (reference,) = session.run(None, INPUTS)
    with ThreadPoolExecutor(4) as pool:
        for output in pool.map(lambda _: session.run(None, INPUTS)[0], range(16)):
            np.testing.assert_array_equal(output, reference)
