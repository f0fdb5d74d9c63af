"""The way from a data file, or none, to a model's inputs."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from qfa_passes.data import read_data
from qfa_passes.errors import InvalidDataError, QfaError, UsageError
from qfa_passes.load import read_model
from tests.verify.language_model import VOCABULARY, bigram_model


def test_nothing_given_is_labelled_random() -> None:
    found = read_data(None, read_model(bigram_model()), samples=2, seed=5)
    assert found.label == "seeded random inputs (seed 5)"
    assert found.seeded
    assert len(found.feeds) == 2
    assert found.feeds[0]["input_ids"].max() < VOCABULARY


def test_archive(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, input_ids=np.arange(8).reshape(2, 4))
    found = read_data(path, read_model(bigram_model()))
    assert len(found.feeds) == 2
    assert found.label == "data.npz (2 samples)"


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("the pickle ran",))

    path = tmp_path / "data.npz"
    np.savez(path, input_ids=np.array([Bomb()], dtype=object))
    with pytest.raises(InvalidDataError):
        read_data(path, read_model(bigram_model()))


def test_metadata_names_the_tokenizer(tmp_path: Path) -> None:
    model = bigram_model()
    model.metadata_props.add(key="qfa.tokenizer", value="bytes")
    path = tmp_path / "text"
    path.write_bytes(bytes([1, 2, 3]))
    assert read_data(path, read_model(model)).feeds[0]["input_ids"].tolist() == [[1, 2, 3]]


def test_tokenizer_beside_the_model(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    onnx.save(bigram_model(), tmp_path / "model.onnx")
    words = tokenizers.models.WordLevel({"a": 7, "[UNK]": 0}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    path = tmp_path / "text.txt"
    path.write_text("a b a")
    model = read_model(tmp_path / "model.onnx")
    assert read_data(path, model).feeds[0]["input_ids"].tolist() == [[7, 0, 7]]


def test_the_digest_tells_files_apart(tmp_path: Path) -> None:
    model = read_model(bigram_model())
    digests = []
    for name, content in (("a.npz", 1), ("b.npz", 1), ("c.npz", 2)):
        np.savez(tmp_path / name, input_ids=np.full((1, 4), content))
        digests.append(read_data(tmp_path / name, model).digest)
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("name", ["missing.txt", "missing.npz", "weights.pt"])
def test_files_that_cannot_be_used(tmp_path: Path, name: str) -> None:
    with pytest.raises(QfaError) as caught:
        read_data(tmp_path / name, read_model(bigram_model()))
    assert name in str(caught.value)
    json.dumps(str(caught.value))


def test_samples_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        read_data(tmp_path / "x.npz", read_model(bigram_model()), samples=0)
