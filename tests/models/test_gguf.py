"""Reading a GGUF file: names, the order of rotary channels, and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the extra [models] is not installed")

from models.gguf_llama import _halves_from_pairs, read_config, read_weights  # noqa: E402

HEADS, KV_HEADS, SIZE, WIDTH = 4, 2, 6, 24


def rope_on_pairs(x: np.ndarray, position: int) -> np.ndarray:
    """Rotary positions as GGUF means them: channels 2i and 2i+1 turn together, (H, D)."""
    angle = position / 10.0 ** np.arange(SIZE // 2)
    low, high = x[:, 0::2], x[:, 1::2]
    out = np.empty_like(x)
    out[:, 0::2] = low * np.cos(angle) - high * np.sin(angle)
    out[:, 1::2] = low * np.sin(angle) + high * np.cos(angle)
    return out


def rope_on_halves(x: np.ndarray, position: int) -> np.ndarray:
    """Rotary positions as transformers means them: channels i and i + D/2 turn together, (H, D)."""
    angle = np.tile(position / 10.0 ** np.arange(SIZE // 2), 2)
    low, high = np.split(x, 2, axis=1)
    return x * np.cos(angle) + np.concatenate([-high, low], axis=1) * np.sin(angle)


def test_reordered_projections_give_the_same_scores() -> None:
    rng = np.random.default_rng(0)
    wq, wk = rng.normal(size=(2, HEADS * SIZE, WIDTH)).astype(np.float32)
    xq, xk = rng.normal(size=(2, WIDTH))

    def score(weights: list[np.ndarray], rope) -> np.ndarray:
        q, k = ((w @ x).reshape(HEADS, SIZE) for w, x in zip(weights, (xq, xk), strict=True))
        return (rope(q, 7) * rope(k, 3)).sum(axis=1)

    expected = score([wq, wk], rope_on_pairs)
    reordered = [_halves_from_pairs(w, HEADS) for w in (wq, wk)]
    np.testing.assert_allclose(score(reordered, rope_on_halves), expected, rtol=1e-6)
    assert np.abs(score([wq, wk], rope_on_halves) - expected).max() > 1e-3


def write_model(path: Path, *, extra: str | None = None) -> dict[str, np.ndarray]:
    """Write a one-layer GGUF file and return its tensors."""
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (32, WIDTH),
        "output_norm.weight": (WIDTH,),
        "blk.0.attn_norm.weight": (WIDTH,),
        "blk.0.attn_q.weight": (HEADS * SIZE, WIDTH),
        "blk.0.attn_k.weight": (KV_HEADS * SIZE, WIDTH),
        "blk.0.attn_v.weight": (KV_HEADS * SIZE, WIDTH),
        "blk.0.attn_output.weight": (WIDTH, HEADS * SIZE),
        "blk.0.ffn_norm.weight": (WIDTH,),
        "blk.0.ffn_gate.weight": (64, WIDTH),
        "blk.0.ffn_up.weight": (64, WIDTH),
        "blk.0.ffn_down.weight": (WIDTH, 64),
    }
    if extra:
        shapes[extra] = (WIDTH,)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(128)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_token_list([f"t{i}" for i in range(32)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name, array in tensors.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


def test_weights_load_into_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra [models] is not installed")
    path = tmp_path / "m.gguf"
    written = write_model(path)
    config = transformers.LlamaConfig(**read_config(path))
    model = transformers.LlamaForCausalLM(config)
    weights = read_weights(path)
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    expected.pop("lm_head.weight")
    assert {name: array.shape for name, array in weights.items()} == expected
    down = weights["model.layers.0.mlp.down_proj.weight"]
    np.testing.assert_array_equal(down, written["blk.0.ffn_down.weight"])
    # The base of the rotary frequencies has changed its place in configurations before.
    frequency = model.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(frequency, 10000.0 ** -(np.arange(0, SIZE, 2) / SIZE), rtol=1e-6)


def test_unknown_tensor_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "m.gguf", extra="blk.0.ssm_a.weight")
    with pytest.raises(ValueError, match=r"blk\.0\.ssm_a\.weight"):
        read_weights(tmp_path / "m.gguf")
