"""Read the configuration and the float32 weights of a Llama model out of a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def read_config(path: Path) -> dict[str, Any]:
    """Return the keyword arguments of `transformers.LlamaConfig` that describe the model."""
    import gguf

    reader = gguf.GGUFReader(path)

    def value(key: str) -> Any:
        field = reader.get_field(key)
        if field is None:
            raise ValueError(f"{path} has no field {key}: it holds no Llama model")
        return field.contents()

    theta = float(value("llama.rope.freq_base"))
    return {
        "hidden_size": int(value("llama.embedding_length")),
        "intermediate_size": int(value("llama.feed_forward_length")),
        "num_hidden_layers": int(value("llama.block_count")),
        "num_attention_heads": int(value("llama.attention.head_count")),
        "num_key_value_heads": int(value("llama.attention.head_count_kv")),
        "max_position_embeddings": int(value("llama.context_length")),
        "rms_norm_eps": float(value("llama.attention.layer_norm_rms_epsilon")),
        "vocab_size": len(value("tokenizer.ggml.tokens")),
        # A wrong or absent theta goes unnoticed in short prompts and costs several units of logit.
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": all(t.name != "output.weight" for t in reader.tensors),
        "bos_token_id": int(value("tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(value("tokenizer.ggml.eos_token_id")),
    }


def read_weights(path: Path) -> dict[str, Array]:
    """Return every weight, dequantized, under the name that `LlamaForCausalLM` gives it."""
    import gguf

    config = read_config(path)
    heads = {
        "attn_q": config["num_attention_heads"],
        "attn_k": config["num_key_value_heads"],
    }
    weights: dict[str, Array] = {}
    for tensor in gguf.GGUFReader(path).tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name in _TOP:
            weights[_TOP[tensor.name]] = array
            continue
        block, index, part, kind = tensor.name.split(".")
        if block != "blk" or part not in _IN_BLOCK:
            raise ValueError(f"{path} holds the tensor {tensor.name}, which no Llama model has")
        if part in heads:
            array = _halves_from_pairs(array, heads[part])
        weights[f"model.layers.{index}.{_IN_BLOCK[part]}.{kind}"] = array
    return weights


def _halves_from_pairs(weight: Array, heads: int) -> Array:
    """Reorder the rows of a query or key projection, (heads * D, C), for rotate-half RoPE.

    GGUF keeps the two channels that RoPE turns together next to each other; transformers keeps one
    in the lower and one in the upper half of the head.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows, columns)
