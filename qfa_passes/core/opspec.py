"""The schema of ``ai.qfa::QuantFlashAttention``: the single source of truth.

The C++ operator (``custom_ops/ort/opspec.inc`` is generated from this file by ``python -m qfa_passes.core.opspec``),
the function body, the passes and docs/operator.md all follow these tables. Inputs and attributes are only ever
appended: a model written today stays valid.
"""

from dataclasses import dataclass
from typing import Final

DOMAIN: Final = "ai.qfa"
OP_TYPE: Final = "QuantFlashAttention"
DOMAIN_VERSION: Final = 1
SCHEMA_VERSION: Final = 3

KEY_BLOCK: Final = 64
"""Keys that share one maximum when the softmax weights are quantized (part of the numeric contract)."""

KEY_GROUP: Final = 32
"""Tokens that share the scale of one channel in a 4-bit key cache."""


@dataclass(frozen=True, slots=True)
class OpInput:
    """One input: its name, the ONNX types it takes, its shape in letters and what it means."""

    name: str
    types: tuple[str, ...]
    shape: str
    required: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class OpAttribute:
    """One attribute; ``kind`` is ``int``, ``float`` or ``string``. The passes always write every attribute."""

    name: str
    kind: str
    default: int | float | str | None
    choices: tuple[str, ...]
    meaning: str


FLOAT_TYPES: Final = ("float", "float16", "bfloat16")
CACHE_TYPES: Final = (*FLOAT_TYPES, "int8", "uint8")
SCALE_TYPES: Final = ("float", "float16")

INPUTS: Final = (
    OpInput("query", FLOAT_TYPES, "(B, H, S, D) or (B, S, H * D)", True, "queries"),
    OpInput(
        "key", FLOAT_TYPES, "(B, Hkv, T, D) or (B, T, Hkv * D)", True, "keys; same type as query"
    ),
    OpInput(
        "value",
        FLOAT_TYPES,
        "(B, Hkv, T, Dv) or (B, T, Hkv * Dv)",
        True,
        "values; same type as query",
    ),
    OpInput("attn_mask", ("bool",), "broadcastable to (B, H, S, T)", False, "true = may attend"),
    OpInput(
        "attn_bias",
        FLOAT_TYPES,
        "broadcastable to (B, H, S, T)",
        False,
        "added to the scaled scores; -inf = may not attend",
    ),
    OpInput("q_scale", ("float",), "() or (H)", False, "value of one query code step (static)"),
    OpInput("k_scale", ("float",), "() or (Hkv)", False, "value of one key code step (static)"),
    OpInput("v_scale", ("float",), "() or (Hkv)", False, "value of one value code step (static)"),
    OpInput("k_mean", ("float",), "(Hkv, D)", False, "subtracted from K before quantization"),
    OpInput("sink", FLOAT_TYPES, "(H)", False, "logit of one more key whose value is zero"),
    OpInput("kv_length", ("int64",), "(B)", False, "only the first kv_length[b] keys are seen"),
    OpInput(
        "past_key",
        CACHE_TYPES,
        "(B, Hkv, P, D), int4: (B, Hkv, P, ceil(D / 2))",
        False,
        "keys in front of key",
    ),
    OpInput(
        "past_value",
        CACHE_TYPES,
        "(B, Hkv, P, Dv), int4: (B, Hkv, P, ceil(Dv / 2))",
        False,
        "values in front of value",
    ),
    OpInput(
        "past_key_scale",
        SCALE_TYPES,
        "(B, Hkv, P) or (Hkv, D) or (B, Hkv, ceil(P / 32), D)",
        False,
        "value of one code step of past_key",
    ),
    OpInput(
        "past_value_scale",
        SCALE_TYPES,
        "(B, Hkv, P) or (Hkv, Dv) or (B, Hkv, P, ceil(Dv / group_size))",
        False,
        "value of one code step of past_value",
    ),
    OpInput(
        "past_key_zero_point",
        ("int8",),
        "(B, Hkv, ceil(P / 32), D)",
        False,
        "code of 0 in past_key",
    ),
    OpInput(
        "past_value_zero_point",
        ("int8",),
        "(B, Hkv, P, ceil(Dv / group_size))",
        False,
        "code of 0 in past_value",
    ),
    OpInput(
        "past_key_open",
        FLOAT_TYPES,
        "(B, Hkv, 32, D)",
        False,
        "newest keys of an int4 cache; same type as key",
    ),
)

OUTPUTS: Final = (
    OpInput(
        "output",
        FLOAT_TYPES,
        "(B, H, S, Dv), or (B, S, H * Dv) if query has three axes",
        True,
        "attention output",
    ),
    OpInput(
        "present_key", CACHE_TYPES, "as past_key, of P + T tokens", False, "past_key, then key"
    ),
    OpInput(
        "present_value",
        CACHE_TYPES,
        "as past_value, of P + T tokens",
        False,
        "past_value, then value",
    ),
    OpInput(
        "present_key_scale",
        SCALE_TYPES,
        "as past_key_scale, of P + T tokens",
        False,
        "value of one code step of present_key",
    ),
    OpInput(
        "present_value_scale",
        SCALE_TYPES,
        "as past_value_scale, of P + T tokens",
        False,
        "value of one code step of present_value",
    ),
    OpInput(
        "present_key_zero_point",
        ("int8",),
        "(B, Hkv, ceil((P + T) / 32), D)",
        False,
        "code of 0 in present_key",
    ),
    OpInput(
        "present_value_zero_point",
        ("int8",),
        "(B, Hkv, P + T, ceil(Dv / group_size))",
        False,
        "code of 0 in present_value",
    ),
    OpInput(
        "present_key_open",
        FLOAT_TYPES,
        "(B, Hkv, 32, D)",
        False,
        "newest keys of an int4 cache; same type as key",
    ),
)

ATTRIBUTES: Final = (
    OpAttribute("num_heads", "int", None, (), "H"),
    OpAttribute("kv_num_heads", "int", None, (), "Hkv; divides H"),
    OpAttribute("scale", "float", None, (), "multiplies Q K^T; finite"),
    OpAttribute("is_causal", "int", 0, (), "1: the query at position p sees keys j <= p"),
    OpAttribute(
        "compute_format",
        "string",
        "int8",
        ("int8", "float", "fp8e4m3", "fp8e5m2"),
        "format of the two products; float: nothing is quantized",
    ),
    OpAttribute(
        "scale_mode",
        "string",
        "dynamic",
        ("dynamic", "static"),
        "dynamic: one scale per token, found inside; static: q_scale, k_scale and v_scale are given",
    ),
    OpAttribute(
        "rotate", "string", "none", ("none", "hadamard"), "rotation of Q and K before quantization"
    ),
    OpAttribute("schema_version", "int", SCHEMA_VERSION, (), "version of this table"),
    OpAttribute(
        "softcap", "float", 0.0, (), "c > 0: the scaled score s counts as c * tanh(s / c); 0: off"
    ),
    OpAttribute(
        "queries_at_end",
        "int",
        0,
        (),
        "1: query i stands at p = i + T - S, T with past keys, or kv_length[b]; 0: at p = i",
    ),
    OpAttribute("left_window", "int", -1, (), "keys j >= p - left_window are seen; -1: all"),
    OpAttribute("right_window", "int", -1, (), "keys j <= p + right_window are seen; -1: all"),
    OpAttribute(
        "kv_format",
        "string",
        "float",
        ("float", "int8", "int4", "fp8e4m3", "fp8e5m2"),
        "what past and present hold; float: numbers of the type of key",
    ),
    OpAttribute(
        "kv_granularity",
        "string",
        "token",
        ("token", "channel"),
        "what shares a scale in an int8 cache; channel: given scales of (Hkv, D) and (Hkv, Dv)",
    ),
    OpAttribute(
        "group_size",
        "int",
        32,
        (),
        "channels that share a scale of V in an int4 cache; multiple of 32",
    ),
    OpAttribute(
        "kv_update",
        "string",
        "concat",
        ("concat", "shared"),
        "shared: past and present are buffers of P rows, of which kv_length[b] are in use in the end",
    ),
)


CACHE_ATTRIBUTES: Final = ("kv_format", "kv_granularity", "group_size", "kv_update")
"""Attributes that say what past and present are. With their defaults they are what standard operators can join."""


def attribute_default(name: str) -> int | float | str | None:
    """Returns the default of an attribute; raises ``KeyError`` for an unknown name."""
    return {spec.name: spec.default for spec in ATTRIBUTES}[name]


def input_index(name: str) -> int:
    """Returns the position of an input; raises ``KeyError`` for an unknown name."""
    for index, spec in enumerate(INPUTS):
        if spec.name == name:
            return index
    raise KeyError(name)


def to_cpp() -> str:
    """Renders the tables as C++ macro invocations for the operator's registration code."""
    macros = ("QFA_SCHEMA", "QFA_INPUT", "QFA_OUTPUT", "QFA_ATTRIBUTE")
    lines = [
        "// Generated by `python -m qfa_passes.core.opspec`; edit qfa_passes/core/opspec.py instead.",
        "// Define the macros that you want before including this file; all are gone after it.",
    ]
    for macro in macros:
        lines += [f"#ifndef {macro}", f"#define {macro}(...)", "#endif"]
    lines.append(f'QFA_SCHEMA("{DOMAIN}", "{OP_TYPE}", {DOMAIN_VERSION}, {SCHEMA_VERSION})')
    for index, spec in enumerate(INPUTS):
        types = " | ".join(f"QFA_TYPE({kind})" for kind in spec.types)
        required = str(spec.required).lower()
        lines.append(f'QFA_INPUT({index}, {spec.name}, {types}, {required}, "{spec.shape}")')
    for index, spec in enumerate(OUTPUTS):
        required = str(spec.required).lower()
        lines.append(f'QFA_OUTPUT({index}, {spec.name}, {required}, "{spec.shape}")')
    for attribute in ATTRIBUTES:
        required = str(attribute.default is None).lower()
        default = "" if attribute.default is None else attribute.default
        choices = "|".join(attribute.choices)
        lines.append(
            f'QFA_ATTRIBUTE({attribute.name}, {attribute.kind}, {required}, "{default}", "{choices}")'
        )
    lines += [f"#undef {macro}" for macro in macros]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(to_cpp(), end="")
