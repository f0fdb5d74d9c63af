"""Past and present in one buffer: in place where the runtime is given it twice, else in a copy."""

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from qfa_passes.core.opspec import KEY_GROUP
from qfa_passes.quant.cache import KeyValueCache, append
from tests.operator.caches import (
    INT4,
    KV_HEADS,
    attend,
    cache_node,
    codings,
    constants_of,
    is_integer,
    past_of,
    present_names,
)
from tests.operator.sessions import Array, open_session, run
from tests.reference.attention_cases import nmse

NAMES = list(codings(16, 16))
CAPACITY = 100
FILLER = {"int8": 77, "uint8": 77, "float32": 3e4, "float16": 3e4}
"""What rows hold that no token has taken: nobody may see it, and nobody may change it."""


class Buffers:
    """Caches of B sequences of different lengths in buffers of one capacity."""

    def __init__(self, name: str, batch: int, dtype: Any = np.float32) -> None:
        self.coding = codings(16, 16)[name]
        none = np.zeros((1, KV_HEADS, 0, 16), dtype)
        self.caches = [KeyValueCache.of(self.coding, none, none) for _ in range(batch)]
        room = np.zeros((batch, KV_HEADS, CAPACITY, 16), dtype)
        full = KeyValueCache.of(self.coding, room, room)
        self.past = {key: np.full_like(x, FILLER[str(x.dtype)]) for key, x in past_of(full).items()}

    def append(self, key: Array, value: Array, counts: list[int]) -> None:
        """Puts the first `counts[b]` tokens of batch b into its cache, and into the buffers."""
        for b, count in enumerate(counts):
            part = (slice(b, b + 1), slice(None), slice(0, count))
            self.caches[b] = append(self.caches[b], key[part], value[part])
        self.past = self.updated(self.past)

    def updated(self, past: dict[str, Array]) -> dict[str, Array]:
        """The buffers with the tokens of the caches."""
        result = {name: array.copy() for name, array in past.items()}
        for b, cache in enumerate(self.caches):
            for name, array in cache.tensors.items():
                count = min(array.shape[2], self.limit(name, b))
                result[f"past_{name}"][b, :, :count] = array[0, :, :count]
        return result

    def limit(self, name: str, b: int) -> int:
        """Rows of a tensor that mean something."""
        tokens = self.caches[b].tensors["key"].shape[2]
        done = tokens // KEY_GROUP
        if self.coding.form is not INT4:
            return tokens
        return {
            "key": done * KEY_GROUP,
            "key_scale": done,
            "key_zero_point": done,
            "key_open": tokens % KEY_GROUP,
        }.get(name, tokens)

    def lengths(self) -> Array:
        return np.array([cache.tensors["key"].shape[2] for cache in self.caches])

    def check(self, found: dict[str, Array], *, in_place: bool) -> None:
        """Tokens are there; where none is, the filler is, but for open groups of int4 keys.

        A copy of int4 keys holds zeros there, and behind.
        """
        for name, wanted in self.past.items():
            array = found[name.replace("past", "present")]
            stem = name.removeprefix("past_")
            grouped = self.coding.form is INT4 and stem.startswith("key")
            for b in range(len(self.caches)):
                count = self.limit(stem, b)
                np.testing.assert_array_equal(array[b, :, :count], wanted[b, :, :count], name)
                if grouped and not in_place:
                    assert not array[b, :, count:].any()
                    continue
                if grouped:
                    count += {"key": KEY_GROUP, "key_open": KEY_GROUP}.get(stem, 1)
                np.testing.assert_array_equal(array[b, :, count:], wanted[b, :, count:], name)

    def check_output(self, output: Array, query: Array) -> None:
        for b, cache in enumerate(self.caches):
            exact, _ = attend(query[b : b + 1], cache)
            bound = 5e-4 if is_integer(self.coding) else 1e-11
            bound += 1e-6 if query.dtype == np.float16 else 0
            assert nmse(output[b : b + 1], exact) <= bound


def tokens(batch: int, count: int, seed: int, dtype: Any = np.float32) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shapes = {"query": 4, "key": KV_HEADS, "value": KV_HEADS}
    return {
        name: rng.standard_normal((batch, heads, count, 16)).astype(dtype)
        for name, heads in shapes.items()
    }


def filled(name: str, counts: list[int], dtype: Any = np.float32) -> Buffers:
    buffers = Buffers(name, len(counts), dtype)
    first = tokens(len(counts), max(counts), 1, dtype)
    buffers.append(first["key"], first["value"], counts)
    return buffers


@pytest.mark.parametrize("counts", [[0, 0], [63, 31], [40, 84], [1, 64]])
@pytest.mark.parametrize("added", [1, 3, 16])
@pytest.mark.parametrize("name", NAMES)
def test_a_copy(name: str, added: int, counts: list[int]) -> None:
    """Sequences of different lengths; the present buffers are others, so the whole is copied."""
    buffers = filled(name, counts)
    past = buffers.past
    step = tokens(2, added, 2)
    buffers.append(step["key"], step["value"], [added, added])
    feeds = step | past | constants_of(buffers.coding) | {"kv_length": buffers.lengths()}
    before = {key: array.copy() for key, array in past.items()}
    model = cache_node(buffers.caches[0], feeds, kv_update="shared")
    output, *present = run(model, feeds)
    names = [x for x in present_names(buffers.caches[0])[1:] if x]
    buffers.check(dict(zip(names, present, strict=True)), in_place=False)
    buffers.check_output(output, step["query"])
    for key, array in before.items():
        np.testing.assert_array_equal(past[key], array)


def bind_in_place(
    session: ort.InferenceSession, feeds: dict[str, Array], past: dict[str, ort.OrtValue]
) -> Array:
    """Runs with each past buffer bound as the present one too; returns the output."""
    binding = session.io_binding()
    binding.bind_output("output")
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    for name, buffer in past.items():
        binding.bind_ortvalue_input(name, buffer)
        binding.bind_ortvalue_output(name.replace("past", "present"), buffer)
    session.run_with_iobinding(binding)
    return binding.copy_outputs_to_cpu()[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("name", NAMES)
def test_decoding_in_place(name: str, dtype: type[np.generic]) -> None:
    """Token by token into one buffer, up to its last row."""
    buffers = filled(name, [70, 23], dtype)
    past = {key: ort.OrtValue.ortvalue_from_numpy(x.copy()) for key, x in buffers.past.items()}
    addresses = {key: value.data_ptr() for key, value in past.items()}
    session = None
    for index, count in enumerate([1, 1, 9, 1, 16, 1, 1]):
        step = tokens(2, count, 3 + index, dtype)
        buffers.append(step["key"], step["value"], [count, count])
        feeds = step | constants_of(buffers.coding) | {"kv_length": buffers.lengths()}
        model = cache_node(buffers.caches[0], feeds | buffers.past, kv_update="shared")
        session = session or open_session(model, threads=2)
        output = bind_in_place(session, feeds, past)
        found = {key.replace("past", "present"): x.numpy() for key, x in past.items()}
        buffers.check(found, in_place=True)
        buffers.check_output(output, step["query"])
    assert buffers.lengths()[0] == CAPACITY
    assert {key: value.data_ptr() for key, value in past.items()} == addresses


@pytest.mark.parametrize("name", NAMES)
def test_new_tokens_that_are_not_kept(name: str) -> None:
    """Without present outputs the new tokens are seen, and lost."""
    buffers = filled(name, [50, 33])
    past, step = buffers.past, tokens(2, 3, 4)
    before = {key: array.copy() for key, array in past.items()}
    buffers.append(step["key"], step["value"], [3, 3])
    feeds = step | past | constants_of(buffers.coding) | {"kv_length": buffers.lengths()}
    model = cache_node(buffers.caches[0], feeds, kv_update="shared")
    del model.graph.node[0].output[1:]
    del model.graph.output[1:]
    (output,) = run(model, feeds)
    buffers.check_output(output, step["query"])
    for key, array in before.items():
        np.testing.assert_array_equal(past[key], array)


@pytest.mark.parametrize("name", NAMES)
def test_one_length_for_all(name: str) -> None:
    buffers = filled(name, [50, 50])
    past = buffers.past
    step = tokens(2, 2, 4)
    buffers.append(step["key"], step["value"], [2, 2])
    feeds = step | past | constants_of(buffers.coding) | {"kv_length": np.array([52])}
    output, *_ = run(cache_node(buffers.caches[0], feeds, kv_update="shared"), feeds)
    buffers.check_output(output, step["query"])


@pytest.mark.parametrize("name", NAMES)
def test_shared_and_joined_give_the_same_bits(name: str) -> None:
    buffers = filled(name, [90])
    past, joined = buffers.past, past_of(buffers.caches[0])
    step = tokens(1, 5, 4)
    buffers.append(step["key"], step["value"], [5])
    constants = constants_of(buffers.coding)
    feeds = step | past | constants | {"kv_length": buffers.lengths()}
    shared = run(cache_node(buffers.caches[0], feeds, kv_update="shared"), feeds)[0]
    feeds = step | joined | constants
    np.testing.assert_array_equal(run(cache_node(buffers.caches[0], feeds), feeds)[0], shared)


@pytest.mark.parametrize("lengths", [[3, 101], [0, 50], [2, 50], [2**63 - 1] * 2, [-1, 50]])
@pytest.mark.parametrize("name", ["float", "int8", "int4", "fp8e4m3"])
def test_lengths_out_of_reach(name: str, lengths: list[int]) -> None:
    buffers = filled(name, [10, 20])
    step = tokens(2, 3, 4)
    feeds = step | buffers.past | {"kv_length": np.array(lengths)}
    session = open_session(cache_node(buffers.caches[0], feeds, kv_update="shared"))
    bad = next(x for x in lengths if not 3 <= x <= CAPACITY)
    with pytest.raises(Exception, match="node 'attention_7'") as caught:
        session.run(None, feeds)
    for part in (f"kv_length holds {bad}", "T = 3", f"P = {CAPACITY}", f"2, {CAPACITY}"):
        assert part in str(caught.value)
