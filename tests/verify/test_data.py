"""Text and arrays to feeds, and what is refused."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from qfa_passes.errors import InvalidDataError, LimitExceededError, QfaError, UsageError
from qfa_passes.verify import data as data_module
from qfa_passes.verify.data import read_data
from qfa_passes.verify.inputs import InputSpec

INT64 = np.dtype(np.int64)
IDS = InputSpec("input_ids", INT64, ("batch", "sequence"))
MASK = InputSpec("attention_mask", INT64, ("batch", "sequence"))
POSITIONS = InputSpec("position_ids", INT64, ("batch", "sequence"))
IMAGE = InputSpec("image", np.dtype(np.float32), (None, 3, 4))
BYTES = {"qfa.tokenizer": "bytes"}


def text_file(folder: Path, text: str, name: str = "text.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def array_file(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def test_bytes_become_blocks_that_do_not_overlap(tmp_path: Path) -> None:
    path = text_file(tmp_path, "abcdefghij")
    found = read_data(path, [IDS], metadata=BYTES, context=4)
    assert [feed["input_ids"].tolist() for feed in found.feeds] == [
        [[97, 98, 99, 100]],
        [[101, 102, 103, 104]],
    ]
    assert found.label == "text.txt (2 blocks of 4 tokens)"


def test_one_token_per_byte_not_per_character(tmp_path: Path) -> None:
    found = read_data(text_file(tmp_path, "é€"), [IDS], metadata=BYTES)
    assert found.feeds[0]["input_ids"].tolist() == [list("é€".encode())]


def test_sixteen_blocks_unless_told_otherwise(tmp_path: Path) -> None:
    path = text_file(tmp_path, "x" * 100)
    assert len(read_data(path, [IDS], metadata=BYTES, context=4).feeds) == 16
    assert len(read_data(path, [IDS], metadata=BYTES, context=4, samples=3).feeds) == 3


def test_inputs_that_follow_from_tokens_are_filled_in(tmp_path: Path) -> None:
    path = text_file(tmp_path, "abcdef")
    feed = read_data(path, [IDS, MASK, POSITIONS], metadata=BYTES, context=6).feeds[0]
    assert feed["attention_mask"].tolist() == [[1] * 6]
    assert feed["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]]
    assert {array.dtype for array in feed.values()} == {INT64}


def test_fixed_sizes_of_the_model_decide(tmp_path: Path) -> None:
    fixed = InputSpec("input_ids", INT64, (2, 5))
    found = read_data(text_file(tmp_path, "x" * 33), [fixed], metadata=BYTES, context=512)
    assert [feed["input_ids"].shape for feed in found.feeds] == [(2, 5)] * 3


def test_tokenizer_file(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "good": 1, "day": 2}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    found = read_data(
        text_file(tmp_path, "good day sir"), [IDS], tokenizer=str(tmp_path / "tokenizer.json")
    )
    assert found.feeds[0]["input_ids"].tolist() == [[1, 2, 0]]


def test_arrays_by_input_name(tmp_path: Path) -> None:
    ids = np.arange(12, dtype=np.int32).reshape(3, 4)
    found = read_data(array_file(tmp_path, input_ids=ids, other=ids), [IDS, MASK])
    assert len(found.feeds) == 3
    assert found.feeds[2]["input_ids"].tolist() == [[8, 9, 10, 11]]
    assert found.feeds[2]["input_ids"].dtype == INT64
    assert set(found.feeds[0]) == {"input_ids", "attention_mask"}
    assert found.label == "data.npz (3 samples)"


def test_the_digest_tells_files_apart(tmp_path: Path) -> None:
    first = read_data(text_file(tmp_path, "abcd"), [IDS], metadata=BYTES)
    same = read_data(text_file(tmp_path, "abcd", "copy.txt"), [IDS], metadata=BYTES)
    other = read_data(text_file(tmp_path, "abce"), [IDS], metadata=BYTES)
    assert first.digest == same.digest != other.digest


def refused(path: Path, *specs: InputSpec, **options: object) -> QfaError:
    with pytest.raises(QfaError) as caught:
        read_data(path, specs, **options)
    return caught.value


def test_no_tokenizer(tmp_path: Path) -> None:
    error = refused(text_file(tmp_path, "abc"), IDS)
    assert isinstance(error, UsageError)
    assert "--tokenizer" in error.hint


@pytest.mark.parametrize("name", ["missing.txt", "missing.npz"])
def test_missing_file(tmp_path: Path, name: str) -> None:
    assert "no such data file" in refused(tmp_path / name, IDS).what


def test_missing_and_broken_tokenizers(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path = text_file(tmp_path, "abc")
    assert isinstance(refused(path, IDS, tokenizer=str(tmp_path / "none.json")), UsageError)
    broken = text_file(tmp_path, json.dumps({"a": 1}), "broken.json")
    assert "no tokenizer.json" in refused(path, IDS, tokenizer=str(broken)).what


def test_text_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in refused(path, IDS, metadata=BYTES).what


@pytest.mark.parametrize("text", ["", "x"])
def test_too_little_text(tmp_path: Path, text: str) -> None:
    assert "too few" in refused(text_file(tmp_path, text), IDS, metadata=BYTES).what


def test_text_for_a_model_without_tokens(tmp_path: Path) -> None:
    assert "input_ids" in refused(text_file(tmp_path, "abc"), IMAGE).what


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    assert "'.pt'" in refused(text_file(tmp_path, "", "data.pt"), IDS).what


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("the pickle ran",))

    path = array_file(tmp_path, input_ids=np.array([Bomb()], dtype=object))
    assert isinstance(refused(path, IDS), InvalidDataError)


def test_zip_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_module, "_MAX_ARRAYS", 1 << 20)
    path = tmp_path / "data.npz"
    np.savez_compressed(path, input_ids=np.zeros((1 << 18, 8), np.int64))
    assert path.stat().st_size < 100_000
    assert isinstance(refused(path, IDS), LimitExceededError)


def test_header_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "<i8", "fortran_order": False, "shape": (1 << 50, 8)}
    np.lib.format.write_array_header_1_0(buffer, header)
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("input_ids.npy", buffer.getvalue())
    assert isinstance(refused(path, IDS), InvalidDataError)


def test_file_that_is_no_archive(tmp_path: Path) -> None:
    assert isinstance(refused(text_file(tmp_path, "no zip", "data.npz"), IDS), InvalidDataError)


def test_unfit_arrays_name_array_and_sample(tmp_path: Path) -> None:
    image = np.zeros((4, 3, 4), np.float32)
    image[2, 1, 1] = np.nan
    error = refused(array_file(tmp_path, image=image), IMAGE)
    assert "sample 2, array 'image'" in error.what
    assert "NaN" in error.what
    wrong = refused(array_file(tmp_path, image=np.zeros((4, 5, 4), np.float32)), IMAGE)
    assert "shape (1, 5, 4) where the model takes (?, 3, 4)" in wrong.what
    flat = refused(array_file(tmp_path, image=np.zeros((4, 3), np.float32)), IMAGE)
    assert "shape (1, 3)" in flat.what
    kind = refused(array_file(tmp_path, input_ids=np.zeros((1, 4), np.float32)), IDS)
    assert "float32 where the model takes int64" in kind.what


def test_arrays_that_do_not_belong_together(tmp_path: Path) -> None:
    ids = np.zeros((3, 4), np.int64)
    assert (
        "same number"
        in refused(array_file(tmp_path, input_ids=ids, image=ids[:2]), IDS, IMAGE).what
    )
    assert "no array is named" in refused(array_file(tmp_path, tokens=ids), IDS).what
    assert "image" in refused(array_file(tmp_path, input_ids=ids), IDS, IMAGE).what
    assert "same number" in refused(array_file(tmp_path, input_ids=ids[:0]), IDS).what


def test_values_that_do_not_fit_the_type(tmp_path: Path) -> None:
    small = InputSpec("input_ids", np.dtype(np.int32), (None, None))
    error = refused(array_file(tmp_path, input_ids=np.array([[1, 1 << 40]])), small)
    assert "1..1099511627776 do not fit int32" in error.what


def test_fewer_samples_than_a_batch(tmp_path: Path) -> None:
    fixed = InputSpec("input_ids", INT64, (8, None))
    error = refused(array_file(tmp_path, input_ids=np.zeros((3, 4), np.int64)), fixed)
    assert "fewer samples than one batch" in error.what


@pytest.mark.parametrize("options", [{"samples": 0}, {"context": 1}])
def test_options_out_of_range(tmp_path: Path, options: dict) -> None:
    path = text_file(tmp_path, "abc")
    assert isinstance(refused(path, IDS, metadata=BYTES, **options), UsageError)
