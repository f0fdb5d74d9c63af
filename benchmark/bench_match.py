"""Blocks fused / blocks present, on a folder of exports (`python -m models.zoo export DIR`).

    python -m benchmark.bench_match DIR [--fuse float|int8] [--peers [ort,onnxscript]] [--markdown]
    python -m benchmark.bench_match --growth

How many blocks are present is what torch was seen to compute (zoo.jsonl), never what a matcher found. Peers run on
the same files in processes of their own: the transformers optimizer of ONNX Runtime (the best of the fitting kinds of
model) and onnxscript's fuse_xformers, each on the raw export and on one preprocessed by ONNX Runtime with symbolic
shapes; the result must load. A block counts as wrong where the model's outputs are no longer torch's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import selectors
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.match_growth import print_growth
from benchmark.match_table import Row, print_tables
from benchmark.match_task import Answer, Task
from models.zoo.export import library_versions
from models.zoo.record import Record, read_records

_OURS = {"": "inspect", "float": "float", "int8": "int8"}
_KEPT = "peers.jsonl"
_PEERS = ("ort", "onnxscript")


def main() -> None:
    """Parses options, runs all matchers, prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument(
        "--fuse", choices=("float", "int8"), default="", help="optimize, run and compare"
    )
    parser.add_argument(
        "--peers", nargs="?", const=",".join(_PEERS), default="", help="run peers too (an hour)"
    )
    parser.add_argument("--arch", default="")
    parser.add_argument("--exporter", default="")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one file")
    parser.add_argument("--markdown", action="store_true", help="tables for docs/zoo.md")
    parser.add_argument("--growth", action="store_true", help="time of matching against nodes")
    options = parser.parse_args()
    if options.growth:
        print_growth()
    if options.folder is None:
        return
    records = [
        record
        for record in sorted(read_records(options.folder).values(), key=lambda r: r.name)
        if record.arch in (options.arch.split(",") if options.arch else [record.arch])
        and record.exporter
        in (options.exporter.split(",") if options.exporter else [record.exporter])
    ]
    matchers = [_OURS[options.fuse], *filter(None, options.peers.split(","))]
    rows = [Row(record, {}) for record in records]
    kept = Kept(options.folder / _KEPT)
    for matcher in matchers:
        pool = Worker(matcher, options.timeout)
        for row in rows:
            if not row.sound or _has_op(row.record, matcher):
                continue
            path = options.folder / f"{row.record.name}.onnx"
            answer = kept.get(matcher, path) if matcher in _PEERS else None
            row.answers[matcher] = answer or pool.ask(path, row.record)
            if matcher in _PEERS and answer is None:
                kept.add(matcher, path, row.answers[matcher])
            _progress(matcher, row)
        pool.stop()
    versions = library_versions()
    versions.pop("optimum-onnx", None)
    print(f"versions: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    print_tables(rows, matchers, markdown=options.markdown)


def _has_op(record: Record, matcher: str) -> bool:
    """Peers are not asked about files whose exporter wrote the Attention op: there is nothing to recognise."""
    return matcher in _PEERS and record.exporter == "dyn23_sdpa"


def _progress(matcher: str, row: Row) -> None:
    answer = row.answers[matcher]
    reasons = Counter(answer.refusals)
    notes = [answer.problem, *(f"{count}x {text}" for text, count in reasons.items())]
    wrong = " WRONG" if answer.wrong else ""
    print(
        f"{matcher:10} {row.record.name:34} {answer.fused}/{row.record.blocks}{wrong} "
        f"error {answer.error:.1e}  {' | '.join(filter(None, notes))}",
        file=sys.stderr,
        flush=True,
    )


class Kept:
    """Answers of peers, which are slow, to files that have not changed since."""

    def __init__(self, path: Path) -> None:
        """Reads what is there."""
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self._answers = {tuple(key): answer for key, answer in map(json.loads, lines)}

    def get(self, matcher: str, path: Path) -> Answer | None:
        """The answer, if the file and the version of the peer are the same."""
        answer = self._answers.get(self._key(matcher, path))
        return None if answer is None else _answer(answer)

    def add(self, matcher: str, path: Path, answer: Answer) -> None:
        """Keeps one."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([self._key(matcher, path), asdict(answer)]) + "\n")

    @staticmethod
    def _key(matcher: str, path: Path) -> tuple[str, ...]:
        version = library_versions()["onnxruntime" if matcher == "ort" else matcher]
        return matcher, version, path.name, hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _answer(values: dict[str, Any]) -> Answer:
    return Answer(**{**values, "refusals": tuple(values["refusals"])})


@dataclass
class Worker:
    """A process that runs one matcher; started anew when it dies or is too slow."""

    matcher: str
    timeout: float
    _process: subprocess.Popen[str] | None = None

    def ask(self, path: Path, record: Record) -> Answer:
        """Sends one task and waits for its answer."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmark.match_worker", self.matcher],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        task = Task(str(path), record.arch, record.blocks, sound_sets(record.runtime))
        process.stdin.write(json.dumps(asdict(task)) + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(self.timeout) else None
        if line:
            return _answer(json.loads(line))
        process.kill()
        code = process.wait()
        self._process = None
        return Answer(
            problem=f"no answer in {self.timeout:.0f} s"
            if line is None
            else f"died with code {code}"
        )

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def sound_sets(runtime: str) -> tuple[int, ...] | None:
    """Indices of the sample sets that the untouched file computes as torch does; None: all."""
    if runtime == "ok":
        return None
    return tuple(i for i, verdict in enumerate(runtime.split(" | ")) if verdict == "ok")


if __name__ == "__main__":
    main()
