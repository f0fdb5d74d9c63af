"""Random sequences of runs with a cache of any format, joined or in one buffer, against numpy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from hypothesis import given, settings
from hypothesis import strategies as st

from qfa_passes.core.formats import CacheFormat
from qfa_passes.core.opspec import KEY_GROUP
from qfa_passes.quant import hadamard
from qfa_passes.quant.attention import attention_float64, attention_int8
from qfa_passes.quant.attention_int4 import MOST_ROWS, attention_int4
from qfa_passes.quant.cache import CacheCoding, KeyValueCache, append
from qfa_passes.quant.masking import Masking
from tests.operator.caches import attributes_of, constants_of, is_integer, past_of, present_names
from tests.operator.sessions import Array, one_node, open_session
from tests.reference.attention_cases import nmse

# One weight in the middle of two codes shows among few keys, as in test_random_requests.
BOUND = 1e-4


@dataclass(frozen=True)
class Sequence:
    """What is drawn; see `sequences` for the ranges."""

    form: CacheFormat
    codes_float: bool  # a float cache is computed in int8
    batch: int
    kv_heads: int
    group: int
    channels: int
    v_channels: int
    v_group: int
    steps: list[int]
    spare: int
    shared: bool
    rotate: bool
    shift: bool
    half: bool
    left: int
    softcap: float
    sink: bool
    masked: bool
    threads: int
    seed: int


sequences = st.builds(
    Sequence,
    form=st.sampled_from(list(CacheFormat)),
    codes_float=st.booleans(),
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    channels=st.integers(1, 10).map(lambda n: 8 * n),
    v_channels=st.integers(1, 80),
    v_group=st.sampled_from([32, 64]),
    steps=st.lists(st.one_of(st.just(1), st.integers(0, 80)), min_size=1, max_size=5),
    spare=st.integers(0, 70),
    shared=st.booleans(),
    rotate=st.booleans(),
    shift=st.booleans(),
    half=st.booleans(),
    left=st.one_of(st.just(-1), st.integers(0, 100)),
    softcap=st.sampled_from([0.0, 0.0, 5.0]),
    sink=st.booleans(),
    masked=st.booleans(),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**16),
)


@settings(max_examples=60, deadline=None)
@given(sequences)
def test_random_sequence(s: Sequence) -> None:
    rng = np.random.default_rng(s.seed)
    dtype = np.float16 if s.half else np.float32
    shift = s.shift and s.softcap == 0 and not s.sink
    mean = rng.standard_normal((s.kv_heads, s.channels)).astype(np.float32) if shift else None
    coding = CacheCoding(form=s.form, group=s.v_group, rotate=s.rotate, k_mean=mean)
    if s.form is CacheFormat.FLOAT:
        coding = CacheCoding(form=s.form)
    capacity = sum(s.steps) + s.spare
    none = [np.zeros((s.batch, s.kv_heads, 0, n), dtype) for n in (s.channels, s.v_channels)]
    expected = KeyValueCache.of(coding, *none)
    room = [np.zeros((s.batch, s.kv_heads, capacity, x.shape[3]), dtype) for x in none]
    past = past_of(KeyValueCache.of(coding, *room) if s.shared else expected)
    buffers = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in past.items()}
    session = None
    for count in s.steps:
        step = {
            name: rng.standard_normal((s.batch, heads, count, channels)).astype(dtype)
            for name, heads, channels in (
                ("query", s.kv_heads * s.group, s.channels),
                ("key", s.kv_heads, s.channels),
                ("value", s.kv_heads, s.v_channels),
            )
        }
        expected = append(expected, step["key"], step["value"])
        tokens = expected.tensors["key"].shape[2]
        feeds: dict[str, Any] = step | constants_of(coding)
        if s.shared:
            feeds["kv_length"] = np.full(s.batch, tokens)
        mask = rng.random((s.batch, 1, count, tokens)) > 0.2 if s.masked else None
        if mask is not None:
            unseen = np.ones((s.batch, 1, count, capacity - tokens), bool)
            feeds["attn_mask"] = np.concatenate([mask, unseen], axis=3) if s.shared else mask
        if s.sink:
            feeds["sink"] = rng.standard_normal(s.kv_heads * s.group).astype(np.float32)
        model = _model(s, coding, feeds | past, expected)
        session = session or open_session(model, threads=s.threads)
        output, present = _run(session, feeds, buffers, s.shared)
        _check_present(present, expected)
        masking = Masking(causal=True, queries_at_end=True, left_window=s.left, mask=mask)
        terms = {"scale": s.channels**-0.5, "masking": masking, "sink": feeds.get("sink")}
        _check_output(output, step["query"], expected, s, terms)
        if not s.shared:
            buffers = {
                name.replace("present", "past"): ort.OrtValue.ortvalue_from_numpy(array)
                for name, array in present.items()
            }


def _model(s: Sequence, coding: CacheCoding, inputs: dict[str, Array], cache: KeyValueCache) -> Any:
    attributes = attributes_of(
        coding,
        num_heads=s.kv_heads * s.group,
        kv_num_heads=s.kv_heads,
        scale=s.channels**-0.5,
        left_window=s.left,
        softcap=s.softcap,
        kv_update="shared" if s.shared else "concat",
    )
    if s.form is CacheFormat.FLOAT and s.codes_float:
        attributes["compute_format"] = "int8"
    types = {f"present_{name}": array for name, array in cache.tensors.items()}
    return one_node(inputs, attributes, outputs=present_names(cache), output_types=types)


def _run(
    session: ort.InferenceSession,
    feeds: dict[str, Array],
    buffers: dict[str, ort.OrtValue],
    shared: bool,
) -> tuple[Array, dict[str, Array]]:
    """Returns the output and the present tensors."""
    binding = session.io_binding()
    names = [value.name for value in session.get_outputs()]
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    for name in names:
        past = buffers.get(name.replace("present", "past"))
        if shared and past is not None:
            binding.bind_ortvalue_output(name, past)
        else:
            binding.bind_output(name)
    for name, buffer in buffers.items():
        binding.bind_ortvalue_input(name, buffer)
    session.run_with_iobinding(binding)
    found = dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))
    return found.pop("output"), found


def _check_present(found: dict[str, Array], expected: KeyValueCache) -> None:
    tokens = expected.tensors["key"].shape[2]
    done = tokens // KEY_GROUP
    grouped = {"key": done * KEY_GROUP, "key_scale": done, "key_zero_point": done}
    grouped["key_open"] = tokens % KEY_GROUP
    for name, wanted in expected.tensors.items():
        count = grouped.get(name, tokens) if "key_open" in expected.tensors else tokens
        actual = found[f"present_{name}"]
        np.testing.assert_array_equal(actual[:, :, :count], wanted[:, :, :count], err_msg=name)


def _check_output(
    output: Array, query: Array, cache: KeyValueCache, s: Sequence, terms: dict[str, Any]
) -> None:
    softcap = s.softcap
    coding, rows = cache.coding, query.shape[1] // cache.tensors["key"].shape[1] * query.shape[2]
    half = 1e-6 if query.dtype == np.float16 else 0.0
    key, value = cache.decode()
    if not (is_integer(coding) or (coding.form is CacheFormat.FLOAT and s.codes_float)):
        exact = attention_float64(query, key, value, softcap=softcap, **terms)
        assert nmse(output, exact) <= 1e-11 + half
    elif coding.form is CacheFormat.INT4 and rows <= MOST_ROWS and softcap == 0:
        assert nmse(output, attention_int4(query, cache, **terms)) <= BOUND
    else:
        turned = query.astype(np.float32)
        if coding.rotate:
            turned = hadamard.transform(turned)
            terms = terms | {"scale": terms["scale"] / hadamard.block_length(query.shape[3])}
        definition = attention_int8(turned, key, value, softcap=softcap, **terms)
        assert nmse(output, definition) <= BOUND
