"""How many attention blocks a module truly has: counted in torch, never in the exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_MARK = "Attention"
# Named so, but no product of queries and keys: weights that are read off the query alone.
_OTHER = "Deformable"


def attention_modules(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """The modules that compute attention: those named so that hold no other of that name."""
    found = []
    for name, part in module.named_modules():
        inside = (child for child in part.modules() if child is not part)
        kind = type(part).__name__
        if (
            _MARK in kind
            and _OTHER not in kind
            and not any(_MARK in type(child).__name__ for child in inside)
        ):
            found.append((name, part))
    return found


def count_blocks(module: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> int:
    """How often a forward pass computes attention; layers that share a module count once each."""
    import torch

    calls = 0

    def called(*_: object) -> None:
        nonlocal calls
        calls += 1

    handles = [part.register_forward_hook(called) for _, part in attention_modules(module)]
    try:
        with torch.no_grad():
            module(*inputs.values())
    finally:
        for handle in handles:
            handle.remove()
    return calls
