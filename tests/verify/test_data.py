"""Text and arrays to feeds, and what is refused; archives themselves are tested in tests/load."""

from pathlib import Path

import numpy as np
import pytest

from qfa_passes.errors import InvalidDataError, QfaError, UsageError
from qfa_passes.verify.data import array_data, text_data
from qfa_passes.verify.inputs import InputSpec

INT64 = np.dtype(np.int64)
IDS = InputSpec("input_ids", INT64, ("batch", "sequence"))
MASK = InputSpec("attention_mask", INT64, ("batch", "sequence"))
POSITIONS = InputSpec("position_ids", INT64, ("batch", "sequence"))
IMAGE = InputSpec("image", np.dtype(np.float32), (None, 3, 4))
BYTES = {"qfa.tokenizer": "bytes"}


def text_file(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_bytes_become_blocks_that_do_not_overlap(tmp_path: Path) -> None:
    found = text_data(text_file(tmp_path, "abcdefghij"), [IDS], metadata=BYTES, context=4)
    assert [feed["input_ids"].tolist() for feed in found.feeds] == [
        [[97, 98, 99, 100]],
        [[101, 102, 103, 104]],
    ]
    assert found.label == "text.txt (2 blocks of 4 tokens)"
    assert not found.seeded


def test_sixteen_blocks_unless_told_otherwise(tmp_path: Path) -> None:
    path = text_file(tmp_path, "x" * 100)
    assert len(text_data(path, [IDS], metadata=BYTES, context=4).feeds) == 16
    assert len(text_data(path, [IDS], metadata=BYTES, context=4, samples=3).feeds) == 3


def test_inputs_that_follow_from_tokens_are_filled_in(tmp_path: Path) -> None:
    path = text_file(tmp_path, "abcdef")
    feed = text_data(path, [IDS, MASK, POSITIONS], metadata=BYTES, context=6).feeds[0]
    assert feed["attention_mask"].tolist() == [[1] * 6]
    assert feed["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]]
    assert {array.dtype for array in feed.values()} == {INT64}


def test_fixed_sizes_of_the_model_decide(tmp_path: Path) -> None:
    fixed = InputSpec("input_ids", INT64, (2, 5))
    found = text_data(text_file(tmp_path, "x" * 33), [fixed], metadata=BYTES)
    assert [feed["input_ids"].shape for feed in found.feeds] == [(2, 5)] * 3


def test_arrays_by_input_name() -> None:
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    found = array_data({"input_ids": ids, "other": ids}, [IDS, MASK], name="d.npz")
    assert len(found.feeds) == 3
    assert found.feeds[2]["input_ids"].tolist() == [[8, 9, 10, 11]]
    assert found.feeds[2]["input_ids"].dtype == INT64
    assert set(found.feeds[0]) == {"input_ids", "attention_mask"}
    assert found.label == "d.npz (3 samples)"
    assert len(array_data({"input_ids": ids}, [IDS], name="d.npz", samples=2).feeds) == 2


def refused(*specs: InputSpec, **arrays: np.ndarray) -> QfaError:
    with pytest.raises(InvalidDataError) as caught:
        array_data(arrays, specs, name="d.npz")
    return caught.value


def test_unfit_arrays_name_array_and_sample() -> None:
    image = np.zeros((4, 3, 4), np.float32)
    image[2, 1, 1] = np.nan
    error = refused(IMAGE, image=image)
    assert "sample 2, array 'image'" in error.what
    assert "NaN" in error.what
    wrong = refused(IMAGE, image=np.zeros((4, 5, 4), np.float32))
    assert "shape (1, 5, 4) where the model takes (?, 3, 4)" in wrong.what
    assert "shape (1, 3)" in refused(IMAGE, image=np.zeros((4, 3), np.float32)).what
    kind = refused(IDS, input_ids=np.zeros((1, 4), np.float32))
    assert "float32 where the model takes int64" in kind.what


def test_arrays_that_do_not_belong_to_the_model() -> None:
    ids = np.zeros((3, 4), np.int64)
    assert "no array is named" in refused(IDS, tokens=ids).what
    assert "image" in refused(IDS, IMAGE, input_ids=ids).what


def test_values_that_do_not_fit_the_type() -> None:
    small = InputSpec("input_ids", np.dtype(np.int32), (None, None))
    error = refused(small, input_ids=np.array([[1, 1 << 40]]))
    assert "1..1099511627776 do not fit int32" in error.what


def test_fewer_samples_than_a_batch() -> None:
    fixed = InputSpec("input_ids", INT64, (8, None))
    assert "fixed batch of 8" in refused(fixed, input_ids=np.zeros((3, 4), np.int64)).what


def test_types_that_numpy_cannot_feed() -> None:
    strings = InputSpec("input_ids", None, (None, None))
    assert "cannot be fed" in refused(strings, input_ids=np.zeros((1, 4), np.int64)).what


def test_text_for_a_model_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataError, match="input_ids"):
        text_data(text_file(tmp_path, "abc"), [IMAGE], metadata=BYTES)


def test_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        text_data(text_file(tmp_path, "abc"), [IDS], metadata={})
    assert "--tokenizer" in caught.value.hint


def test_blocks_without_predictions(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prediction"):
        text_data(text_file(tmp_path, "abc"), [IDS], metadata=BYTES, context=1)
