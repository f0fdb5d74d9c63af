"""`inspect`: a line for every block, and what became of any node."""

import json
from pathlib import Path

import onnx
import pytest

from qfa_passes.__main__ import main
from tests.match.blocks import Block

Capture = pytest.CaptureFixture[str]

REFUSED = Block(
    inputs="float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v, float[S,T] f",
    mask="s = Identity(x) y = Mul(s, f)",
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A block that is refused, nodes called n0 (Transpose), n1 (MatMul) ... n4 (Softmax) ..."""
    onnx.save(REFUSED.model(), tmp_path / "m.onnx")
    return str(tmp_path / "m.onnx")


def save(tmp_path: Path, block: Block) -> str:
    proto = block.model()
    proto.producer_name, proto.producer_version = "pytorch", "2.9.1"
    onnx.save(proto, tmp_path / "found.onnx")
    return str(tmp_path / "found.onnx")


def test_one_line_per_block(tmp_path: Path, capsys: Capture) -> None:
    block = Block(constants="float f = {0.5}, float z = {0.0}", mask="y = Mul(x, f)")
    assert main(["inspect", save(tmp_path, block)]) == 0
    title, head, line = capsys.readouterr().out.splitlines()
    assert title == (
        "Attention sites: 1 matched, 0 refused; model written by torch.onnx TorchScript (pytorch 2.9.1)"
    )
    assert head.split()[0] == "where"
    assert line.split("  ")[0] == "n3"
    for words in ("cross MHA 4, D 8/6, none", "B=B S=S T=T", "decomposed", "matched"):
        assert words in line


def test_a_refused_block_is_one_line_with_reason_and_hint(model: str, capsys: Capture) -> None:
    assert main(["inspect", model]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 3
    assert "refused" in out[2] and "'n3'" in out[2]


@pytest.mark.parametrize(
    ("node", "line"),
    [
        ("n4", "n4 is not matched."),
        ("n5", "n5 is 1 node from the attention n4."),
        ("n1", "n1 is 2 nodes from the attention n4."),
        ("y", "y is part of the attention n4."),
        ("q", "q is 2 nodes from the attention n4."),
    ],
)
def test_why_not(node: str, line: str, model: str, capsys: Capture) -> None:
    assert main(["inspect", model, "--why-not", node]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == line
    assert "  understood: softmax 'n4' over the last axis" in lines
    assert any(text.startswith("  stopped at: ") and "'n3'" in text for text in lines)


def test_why_not_as_json(model: str, capsys: Capture) -> None:
    assert main(["inspect", model, "--why-not", "n1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["asked"], document["steps"]) == ("n1", 2)
    assert document["sites"] == []
    (refusal,) = document["refusals"]
    assert refusal["where"] == "n4" and refusal["progress"]
    assert document["error"] is None


def test_why_not_of_a_matched_node(tmp_path: Path, capsys: Capture) -> None:
    path = save(tmp_path, Block())
    assert main(["inspect", path, "--why-not", "n1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "n1 is part of the attention n3."
    assert lines[1].startswith("n3 is matched: cross MHA 4, D 8/6")
    assert "  extents: B=B S=S T=T" in lines


def test_unknown_names_are_answered_with_known_ones(model: str, capsys: Capture) -> None:
    assert main(["inspect", model, "--why-not", "n44"]) == 2
    assert "did you mean 'n4'" in capsys.readouterr().err
    assert main(["inspect", model, "--why-not", "something else entirely"]) == 2
    assert "run `inspect MODEL` for names" in capsys.readouterr().err


def test_a_node_far_from_attention(tmp_path: Path, capsys: Capture) -> None:
    chain = " ".join(f"r{n + 1} = Relu(r{n})" for n in range(12))
    block = Block(product=f"o = MatMul(w, v) r0 = Relu(o) {chain}", outputs="float[B,4,S,6] r12")
    assert main(["inspect", save(tmp_path, block), "--why-not", "r12"]) == 2
    assert "no attention is near 'r12'" in capsys.readouterr().err


def test_inside_a_branch(tmp_path: Path, capsys: Capture) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    branch (bool c, float[B,4,S,8] q, float[B,4,T,8] k, float[B,4,T,6] v) => (float[B,4,S,6] o)
    {
        [choice] o = If (c) <
            then_branch = one () => (float[B,4,S,6] a) {
                [turn] kt = Transpose<perm = [0, 1, 3, 2]>(k) [qk] x = MatMul(q, kt) [soft] p = Softmax(x)
                [pv] a = MatMul(p, v)
            },
            else_branch = two () => (float[B,4,S,6] e) { z = Constant<value_float = 0.0>() s = Shape(q)
                e0 = MatMul(q, z8) e = Identity(e0) }
        >
    }
    """.replace(
        "z = Constant<value_float = 0.0>() s = Shape(q)", "z8 = Transpose<perm = [0, 1, 3, 2]>(v)"
    )
    proto = onnx.parser.parse_model(text)
    onnx.save(proto, tmp_path / "branch.onnx")
    path = str(tmp_path / "branch.onnx")
    assert main(["inspect", path, "--json"]) == 0
    (site,) = json.loads(capsys.readouterr().out)["sites"]
    assert site["name"].endswith("/soft") and "then_branch" in site["name"]
    for name in ("qk", site["name"].removesuffix("soft") + "qk"):
        assert main(["inspect", path, "--why-not", name]) == 0
        assert f"is part of the attention {site['name']}" in capsys.readouterr().out
