"""Coverage-guided fuzzing of the reader. Not part of the test suite; needs atheris.

    python -m tests.faults.fuzz_read_model -max_total_time=300

Every input is either refused with a coded error, or read, written and read again with the same result.
"""

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["qfa_passes.load", "qfa_passes.save", "qfa_passes.core"]):
    from qfa_passes.errors import QfaError
    from qfa_passes.load import Limits, read_model
    from qfa_passes.save import to_model_proto, write_model

from tests.load.small_models import external_tensor, two_layers, with_initializer
from tests.load.test_structure import function, nested_proto, with_functions

LIMITS = Limits(weight_bytes=1 << 22, shell_bytes=1 << 20, nodes=10_000)
FOLDER = Path(tempfile.mkdtemp(prefix="fuzz_read_model"))


def check(data: bytes) -> None:
    """One round: read, and if that worked, write and read again."""
    try:
        model = read_model(data, limits=LIMITS, base_dir=FOLDER)
    except QfaError as error:
        assert error.exit_code in (5, 6), error
        assert error.hint, error
        return
    target = FOLDER / "out.onnx"
    saved = write_model(model, target, external_data="always")
    again = read_model(target, limits=LIMITS)
    assert to_model_proto(again) == to_model_proto(model)
    for path in saved.paths:
        path.unlink()


def main() -> None:
    """Seeds a corpus with valid models and starts the fuzzer."""
    logging.disable()
    corpus = Path(tempfile.mkdtemp(prefix="fuzz_corpus"))
    (FOLDER / "w.data").write_bytes(bytes(8192))
    seeds = [
        two_layers(width=17),
        two_layers(width=3),
        with_initializer(external_tensor("w.data", offset=8, length=4096)),
        with_initializer(external_tensor("w.data", (4,))),
        nested_proto(3),
        with_functions([function("f", ["g", "g"]), function("g", [])]),
    ]
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed.SerializeToString())
    atheris.Setup([sys.argv[0], str(corpus), "-max_len=8192", *sys.argv[1:]], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
