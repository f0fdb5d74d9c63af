"""Names: who is ours, who is whose peer."""

from __future__ import annotations

from typing import Final

from benchmark.attention.results import CaseResult
from benchmark.attention.spread import Spread

OURS: Final = ("kernel", "operator", "reading")
FLOAT_ORT: Final = (
    "ORT Attention-23",
    "ORT MultiHeadAttention",
    "ORT GroupQueryAttention",
    "ORT unfused",
)


def is_ours(name: str) -> bool:
    """Whether it is no peer."""
    return name.startswith(OURS)


def reference(result: CaseResult, peer: str) -> str:
    """Like against like: a peer in ONNX Runtime is held against our operator there, any other against the kernel."""
    suffix = "int8 cache" if result.case.decode else "int8"
    operator = f"operator {suffix}"
    in_runtime = peer.startswith("ORT") and result.right(operator)
    return operator if in_runtime else f"kernel {suffix}"


def peer_ratio(result: CaseResult, peer: str) -> Spread | None:
    """Time of a peer over ours; above 1 we are faster."""
    return result.ratio(peer, reference(result, peer))


def peers(result: CaseResult) -> list[str]:
    """Everyone else who computed the right thing."""
    return [name for name in result.timings if not is_ours(name) and result.right(name)]


def fastest_peer(result: CaseResult) -> tuple[str, Spread] | None:
    """Who comes nearest to us, and how near."""
    known = [(name, ratio) for name in peers(result) if (ratio := peer_ratio(result, name))]
    return min(known, key=lambda pair: pair[1].middle, default=None)
