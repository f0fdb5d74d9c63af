"""Commands on real models: what they print, as tables and as JSON."""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from qfa_passes.__main__ import main
from tests.verify.language_model import bigram_model

TINY = Path(__file__).parents[2] / "models" / "tiny_lm"
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    for name, noise in (("a b.onnx", 0.0), ("größer.onnx", 0.01)):
        model = bigram_model(noise=noise)
        model.metadata_props.add(key="qfa.tokenizer", value="bytes")
        onnx.save(model, tmp_path / name)
    (tmp_path / "text.txt").write_bytes(bytes(np.random.default_rng(0).integers(0, 32, 4000)))
    return str(tmp_path / "a b.onnx"), str(tmp_path / "größer.onnx")


def test_verify_prints_the_table(pair: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    data = str(tmp_path / "text.txt")
    assert main(["verify", *pair, "--data", data, "--context", "100", "--latency"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for words in ("a b.onnx", "größer.onnx", "perplexity", "KL divergence", "latency", "size"):
        assert words in out
    assert "verdict: pass" in out
    assert "16 blocks of 100 tokens" in out
    assert "\x1b" not in out


def test_verify_prints_json(pair: tuple[str, str], tmp_path: Path, capsys: Capture) -> None:
    data = str(tmp_path / "text.txt")
    assert main(["verify", *pair, "--data", data, "--samples", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["samples"] == 2
    assert document["language"]["tokens"] == 2 * 511
    assert document["guard"]["verdict"] == "pass"
    assert document["a"]["attention"] == document["a"]["fused"] == 0
    assert document["error"] is None


def test_verify_fails_with_exit_code_4(
    pair: tuple[str, str], tmp_path: Path, capsys: Capture
) -> None:
    onnx.save(bigram_model(noise=1.0), tmp_path / "bad.onnx")
    arguments = ["verify", pair[0], str(tmp_path / "bad.onnx"), "--data"]
    arguments.append(str(tmp_path / "text.txt"))
    assert main(arguments) == 4
    assert "verdict: fail" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 4
    document = json.loads(capsys.readouterr().out)
    assert document["guard"]["verdict"] == "fail"
    assert document["error"]["exit_code"] == 4


def test_verify_without_data_says_random(pair: tuple[str, str], capsys: Capture) -> None:
    assert main(["verify", *pair]) == 0
    assert "seeded random inputs" in capsys.readouterr().out


def test_quiet_prints_nothing(pair: tuple[str, str], capsys: Capture) -> None:
    assert main(["verify", *pair, "-q"]) == 0
    assert main(["inspect", pair[0], "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_verbose_lists_phases_on_stderr(pair: tuple[str, str], capsys: Capture) -> None:
    assert main(["verify", *pair, "-v"]) == 0
    assert capsys.readouterr().err.splitlines()[:2] == ["qfa: load", "qfa: compare"]


def test_relative_and_home_paths(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    os.link(pair[0], tmp_path / "-dash.onnx")
    assert main(["inspect", "a b.onnx"]) == 0
    assert main(["inspect", "~/a b.onnx"]) == 0
    assert main(["inspect", "./-dash.onnx"]) == 0
    assert main(["inspect", "-q", "--", "-dash.onnx"]) == 0


def test_inspect_tiny_model(capsys: Capture) -> None:
    model = str(TINY / "tiny_lm.onnx")
    assert main(["inspect", model, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["sites"]) == 4
    assert document["refusals"] == []
    name = document["sites"][1]["name"]
    assert main(["inspect", model]) == 0
    assert f"{name}" in capsys.readouterr().out
    assert main(["inspect", model, "--why-not", name]) == 0
    assert f"{name} is matched" in capsys.readouterr().out
    assert main(["inspect", model, "--why-not", f"{name}x"]) == 2
    assert f"did you mean '{name}'" in capsys.readouterr().err


def test_optimize_tiny_model(tmp_path: Path, capsys: Capture) -> None:
    model, output = str(TINY / "tiny_lm.onnx"), tmp_path / "out.onnx"
    assert main(["optimize", model, "-o", str(output), "--json"]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document == json.loads((tmp_path / "out.report.json").read_text())
    assert document["summary"]["fused"] == 4
    assert "random" in document["data"]
    assert output.is_file()
    assert "Traceback" not in err


def test_dry_run_writes_nothing(tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "out.onnx"
    assert main(["optimize", str(TINY / "tiny_lm.onnx"), "-o", str(output), "--dry-run"]) == 0
    assert "4 found, 4 fused" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert main(["optimize", str(TINY / "tiny_lm.onnx"), "--dry-run", "-q"]) == 0


def test_calibration_on_text_with_a_tokenizer(tmp_path: Path, capsys: Capture) -> None:
    model = onnx.load(TINY / "tiny_lm.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    text = tmp_path / "text.txt"
    text.write_text((TINY / "heldout.txt").read_text()[:200])
    arguments = ["optimize", str(tmp_path / "model.onnx"), "--dry-run", "--calib", str(text)]
    assert main(arguments) == 2
    assert "give --tokenizer FILE" in capsys.readouterr().err
    assert main([*arguments, "--tokenizer", "bytes"]) == 0
    assert "verified on: text.txt (1 block of 200 tokens)" in capsys.readouterr().out


def test_requests_without_effect_are_told(tmp_path: Path, capsys: Capture) -> None:
    model, fused = str(TINY / "tiny_lm.onnx"), str(tmp_path / "fused.onnx")
    options = ["--verify", "off", "--exclude", "Softmax_140", "--exclude", "no_such_site"]
    assert main(["optimize", model, "-o", fused, *options]) == 0
    out = capsys.readouterr().out
    assert "warning: exclude pattern 'no_such_site' matches no site" in out
    assert "warning: nothing was verified" in out
    assert out.count("warning") == 2
    assert main(["inspect", fused]) == 0
    assert "1 matched, 0 refused, 3 fused already" in capsys.readouterr().out
    assert main(["optimize", fused, "--dry-run"]) == 0
    assert "fused already, and left as they are: 3" in capsys.readouterr().out


def test_models_without_attention_are_told(pair: tuple[str, str], capsys: Capture) -> None:
    assert main(["optimize", pair[0], "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Attention sites: 0 found\n")
    assert "no attention was matched" in out
    assert main(["inspect", pair[0]]) == 0
    assert capsys.readouterr().out == "Attention sites: 0 matched, 0 refused\n"


def test_doctor(capsys: Capture) -> None:
    code = main(["doctor", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert code == (0 if document["healthy"] else 6)
    assert main(["doctor"]) == code
    assert "onnxruntime" in capsys.readouterr().out


def test_plan_is_saved_edited_and_obeyed(tmp_path: Path, capsys: Capture) -> None:
    model, plan = str(TINY / "tiny_lm.onnx"), tmp_path / "plan.toml"
    assert main(["optimize", model, "--dry-run", "--save-plan", str(plan), "-q"]) == 0
    text = plan.read_text()
    assert text.count("[[site]]") == 4
    plan.write_text(text.replace('format = "int8"', 'format = "none"', 1))
    assert main(["optimize", model, "--dry-run", "--plan", str(plan), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["summary"]["fused"] == 3
    assert document["summary"]["exempt"] == 1
    assert "plan file" in document["sites"][0]["reason"]
    plan.write_text(text.replace("rotate", "rotation", 1))
    assert main(["optimize", model, "--dry-run", "--plan", str(plan)]) == 2
    assert "did you mean 'rotate'?" in capsys.readouterr().err


def test_fused_models_run_without_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    model, output = str(TINY / "tiny_lm.onnx"), str(tmp_path / "out.onnx")
    assert main(["optimize", model, "-o", output, "-q"]) == 0
    monkeypatch.setenv("QFA_LIBRARY", str(tmp_path / "none.so"))
    arguments = ["verify", model, output, "--data", str(TINY / "heldout.txt"), "--samples", "2"]
    assert main(arguments) == 6
    assert "QFA_LIBRARY" in capsys.readouterr().err
    assert main([*arguments, "--no-library"]) == 0
    assert "4 fused" in capsys.readouterr().out


def test_verification_on_calibration_data_is_warned_of(tmp_path: Path, capsys: Capture) -> None:
    model, output = str(TINY / "tiny_lm.onnx"), str(tmp_path / "out.onnx")
    seen, unseen = tmp_path / "seen.txt", tmp_path / "unseen.txt"
    text = (TINY / "heldout.txt").read_text()
    seen.write_text(text[:2000])
    unseen.write_text(text[2000:4000])
    assert main(["optimize", model, "-o", output, "--calib", str(seen), "-q"]) == 0
    assert main(["verify", model, output, "--data", str(seen)]) == 0
    assert "the verification data is the calibration data" in capsys.readouterr().out
    assert main(["verify", model, output, "--data", str(unseen)]) == 0
    assert "calibration data" not in capsys.readouterr().out
