"""Reading .npz data (fault 20)."""

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qfa_passes.errors import InvalidDataError, LimitExceededError, QfaError, UsageError
from qfa_passes.load import Limits, read_samples
from tests.load.refusals import refused


class Executed:
    """Pickles into a call that would show that a file was unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Calls os.mkdir."""
        return os.mkdir, ("was_unpickled",)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    array=hnp.arrays(
        st.sampled_from(["?", "i1", "u2", "<i8", ">i4", "<f4", ">f8", "f2"]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5),
        elements={"allow_nan": False},
    ),
    compressed=st.booleans(),
    order=st.sampled_from("CF"),
)
def test_round_trip(tmp_path: Path, array: np.ndarray, compressed: bool, order: str) -> None:
    """What numpy saves is what we read, in native byte order."""
    path = tmp_path / "d.npz"
    (np.savez_compressed if compressed else np.savez)(path, x=np.asarray(array, order=order))  # type: ignore[operator]
    samples = read_samples(path)
    np.testing.assert_array_equal(samples.arrays["x"], array)
    assert samples.arrays["x"].dtype == array.dtype.newbyteorder("=")
    assert samples.arrays["x"].dtype.isnative
    assert samples.count == len(array)


def test_pickles_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Object arrays, and a pickle in place of the file."""
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", x=np.array([Executed()], dtype=object))
    with refused(InvalidDataError, "'x'", "pickled"):
        read_samples("d.npz")
    np.array([Executed()], dtype=object).dump("p.npz")
    with refused(InvalidDataError, "pickle"):
        read_samples("p.npz")
    with refused(InvalidDataError, "pickled"):
        read_samples({"x": np.array([{}])})
    assert not (tmp_path / "was_unpickled").exists()


def test_zip_bomb(tmp_path: Path) -> None:
    """The directory states the inflated size; that is refused before anything is inflated."""
    path = tmp_path / "d.npz"
    np.savez_compressed(path, x=np.zeros(10_000_000, np.uint8))
    assert path.stat().st_size < 20_000
    with refused(LimitExceededError, "10,0"):
        read_samples(path, limits=Limits(data_bytes=1_000_000))


def test_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    """An entry that inflates to more than its directory says is cut there and refused."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=np.zeros(1_000_000, np.uint8))
    raw = buffer.getvalue()
    true_size = struct.pack("<I", 1_000_128)
    assert raw.count(true_size) >= 1
    path = tmp_path / "d.npz"
    path.write_bytes(raw.replace(true_size, struct.pack("<I", 1128)))
    with refused(InvalidDataError, "d.npz"):
        read_samples(path)


def npz(
    tmp_path: Path, header: str, payload: bytes = b"", name: str = "x.npy", version: int = 1
) -> Path:
    """Writes an archive with one hand-made member."""
    head = header.encode().ljust(117) + b"\n"
    member = b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(head)) + head + payload
    path = tmp_path / "d.npz"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(name, member)
    return path


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}", b""),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", b""),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2)}", bytes(16)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", bytes(7)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", bytes(9)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", b""),
        ("{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}", bytes(16)),
        ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        ("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", bytes(4)),
        ("{'descr': '|V2', 'fortran_order': False, 'shape': (1,)}", bytes(2)),
        ("{'descr': '<f16', 'fortran_order': False, 'shape': (1,)}", bytes(16)),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 90, b""),
        ("__import__('os').mkdir('x')", b""),
        ("{}", b""),
    ],
)
def test_damaged_headers(tmp_path: Path, header: str, payload: bytes) -> None:
    """Header and length must agree before memory is taken."""
    with refused(InvalidDataError, "d.npz"):
        read_samples(npz(tmp_path, header, payload))


def test_odd_archives(tmp_path: Path) -> None:
    """Names, versions, encryption, foreign files."""
    good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}"
    assert (
        read_samples(npz(tmp_path, good, bytes(4), "../../x.npy")).count == 1
    )  # a name, never a path
    with refused(InvalidDataError, "x.txt"):
        read_samples(npz(tmp_path, good, bytes(4), "x.txt"))
    with refused(InvalidDataError, "damaged"):
        read_samples(npz(tmp_path, good, bytes(4), version=9))
    path = npz(tmp_path, good, bytes(4))
    raw = bytearray(path.read_bytes())
    for offset in (6, raw.rindex(b"PK\x01\x02") + 8):
        raw[offset] |= 1  # the flag for encryption
    path.write_bytes(raw)
    with refused(InvalidDataError, "encrypted"):
        read_samples(path)
    for content, word in (
        (b"", "empty"),
        (b"hello\n", "text"),
        (b"\x93NUMPY\x01\0", "NumPy"),
        (b"PK\x03\x04", "ZIP"),
    ):
        path.write_bytes(content)
        with refused(InvalidDataError, "d.npz"):
            read_samples(path)
        assert word
    with refused(UsageError, "missing.npz", exit_code=2):
        read_samples(tmp_path / "missing.npz")
    with zipfile.ZipFile(path, "w") as file:
        for _ in range(1001):
            file.writestr(f"x{_}.npy", b"")
    with refused(LimitExceededError, "1,001"):
        read_samples(path)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 10_000), value=st.integers(1, 255))
def test_damage(tmp_path: Path, position: int, value: int) -> None:
    """A damaged file is refused, or was damaged where it does not matter."""
    path = tmp_path / "d.npz"
    array = np.arange(100, dtype=np.int32)
    np.savez_compressed(path, x=array)
    raw = bytearray(path.read_bytes())
    raw[position % len(raw)] ^= value
    path.write_bytes(raw)
    try:
        samples = read_samples(path)
    except QfaError as error:
        assert error.exit_code == 5
    else:
        (values,) = samples.arrays.values()
        np.testing.assert_array_equal(values, array)


def test_arrays_that_do_not_belong_together() -> None:
    """Empty, ragged and scalar data."""
    for arrays, word in (
        ({}, "no samples"),
        ({"x": np.zeros((0, 3))}, "no samples"),
        ({"x": np.zeros(3), "y": np.zeros(4)}, "differ"),
        ({"x": np.float32(1)}, "scalar"),
    ):
        with refused(InvalidDataError, word):
            read_samples(arrays)
