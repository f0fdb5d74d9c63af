"""One architecture of the zoo: a small module with seeded weights, and the inputs it is exported and compared with."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Feeds = dict[str, "torch.Tensor"]
Axes = Mapping[str, Mapping[int, str]]

EAGER, SDPA = "eager", "sdpa"
_SEED = 20

BATCH = {0: "batch"}
BATCH_LENGTH = {0: "batch", 1: "sequence"}


@dataclass(frozen=True, slots=True)
class Case:
    """A module that is ready for export.

    Attributes:
        module: Called with the inputs in their order; returns a tensor or a tuple of tensors.
        feeds: Sets of inputs of different extents; exported with the first.
        outputs: Names of the outputs.
        axes: Dynamic axes of inputs and outputs: axis -> symbolic dimension.
    """

    module: torch.nn.Module
    feeds: tuple[Feeds, ...]
    outputs: tuple[str, ...]
    axes: Axes


@dataclass(frozen=True, slots=True)
class Variant:
    """How a module is wanted.

    Attributes:
        attention: `eager` or `sdpa`: how the library writes attention.
        rotary_op: The exporter writes the RotaryEmbedding op with the cosines of one row, which ONNX Runtime refuses
            for larger batches; positions for every row give cosines for every row.
    """

    attention: str = EAGER
    rotary_op: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """A builder and the ways of writing attention that its library knows."""

    name: str
    build: Callable[[Variant], Case]
    attentions: tuple[str, ...]


_ARCHITECTURES: dict[str, Architecture] = {}


def architecture(
    name: str, *attentions: str
) -> Callable[[Callable[[Variant], Case]], Callable[[Variant], Case]]:
    """Registers a builder; without ``attentions`` it knows eager and sdpa."""

    def register(build: Callable[[Variant], Case]) -> Callable[[Variant], Case]:
        _ARCHITECTURES[name] = Architecture(name, build, attentions or (EAGER, SDPA))
        return build

    return register


def architectures() -> dict[str, Architecture]:
    """All architectures by name."""
    import models.zoo.families as families

    for module in pkgutil.iter_modules(families.__path__):
        importlib.import_module(f"{families.__name__}.{module.name}")
    return dict(sorted(_ARCHITECTURES.items()))


def wrap(model: torch.nn.Module, call: Callable[..., Any]) -> torch.nn.Module:
    """A module whose forward takes tensors by position: ``call(model, *inputs)``."""
    import torch

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: torch.Tensor) -> Any:
            return call(self.model, *inputs)

    return Wrapped().eval()


def seeded(model: torch.nn.Module) -> torch.nn.Module:
    """Gives every parameter a seeded random value under which every part of attention matters.

    Libraries start with scores so small that softmax is all but uniform, and with biases and relative positions of
    zero: an error in them would not show.
    """
    import torch

    generator = torch.Generator().manual_seed(_SEED)

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator)

    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    # Some start at zero, and would let nothing through.
    gates = {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if id(parameter) in gates:
                parameter.copy_(1 + 0.1 * noise(parameter))
            elif id(parameter) in embeddings or "relative" in name or "rel_pos" in name:
                parameter.copy_(noise(parameter))
            elif parameter.ndim < 2:
                start = torch.nan_to_num(parameter, nan=0.0, posinf=0.0, neginf=0.0).clamp(-4, 4)
                parameter.copy_(start + 0.1 * noise(parameter))
            else:
                fan_in = parameter[0].numel() if parameter.ndim != 3 else parameter.shape[1]
                parameter.copy_(noise(parameter) * 1.3 * fan_in**-0.5)
    return model.float().eval()


def token_feeds(
    shapes: Sequence[tuple[int, int]] = ((2, 12), (3, 9)), *, vocabulary: int = 96, padded: int = 2
) -> tuple[Feeds, ...]:
    """input_ids and attention_mask (B, S); the last row of each batch ends in ``padded`` tokens of padding."""
    import torch

    feeds = []
    for batch, length in shapes:
        generator = torch.Generator().manual_seed(length)
        ids = torch.randint(3, vocabulary, (batch, length), generator=generator)
        mask = torch.ones_like(ids)
        if padded and length > 1:
            mask[-1, -padded:] = 0
        feeds.append({"input_ids": ids, "attention_mask": mask})
    return tuple(feeds)


def float_feeds(name: str, *shapes: tuple[int, ...]) -> tuple[Feeds, ...]:
    """One input of normal numbers, in several shapes."""
    import torch

    return tuple(
        {name: torch.randn(shape, generator=torch.Generator().manual_seed(index))}
        for index, shape in enumerate(shapes)
    )


def from_config(auto: type[Any], config: Any, variant: Variant) -> torch.nn.Module:
    """A seeded transformers model of a configuration."""
    config.use_cache = False
    model = auto.from_config(config, attn_implementation=variant.attention)
    return seeded(model)
