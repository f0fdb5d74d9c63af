"""What the zoo says of itself: the number of attention blocks, and that each of them matters."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the extra [models] is not installed")
pytest.importorskip("transformers", reason="the extra [models] is not installed")
pytest.importorskip("diffusers", reason="the extra [models] is not installed")

from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from models.zoo.blocks import attention_modules, count_blocks  # noqa: E402
from models.zoo.case import Variant, architectures  # noqa: E402

pytestmark = pytest.mark.models

VARIANTS = [
    (name, attention) for name, arch in architectures().items() for attention in arch.attentions
]
# Kernels of convolutions, a choice of experts, weights read off the query: softmaxes of other things.
OTHER_SOFTMAXES = {"convbert": 2, "gpt_oss": 2, "mgp_str": 3, "rt_detr": 2}
ATTENTION_KERNELS = {
    "aten::_softmax",
    "aten::_safe_softmax",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
}


class Kernels(TorchDispatchMode):
    """Counts the kernels that attention comes down to, whatever the module calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name().split(".")[0] in ATTENTION_KERNELS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "attention"), VARIANTS)
def test_blocks_are_the_softmaxes_that_torch_computes(name: str, attention: str) -> None:
    case = architectures()[name].build(Variant(attention))
    with torch.no_grad(), Kernels() as kernels:
        case.module(*case.feeds[0].values())
    blocks = count_blocks(case.module, case.feeds[0])
    assert blocks == kernels.count - OTHER_SOFTMAXES.get(name, 0)
    assert blocks >= 2


@pytest.mark.parametrize("name", architectures())
def test_every_attention_that_runs_reaches_the_outputs(name: str) -> None:
    """A block that could be computed wrongly unseen would prove nothing."""
    arch = architectures()[name]
    case = arch.build(Variant(arch.attentions[0]))
    inputs = tuple(case.feeds[0].values())
    with torch.no_grad():
        expected = first(case.module(*inputs))
        for path, module in attention_modules(case.module):
            disturb = Disturb()
            handle = module.register_forward_hook(disturb)
            changed = first(case.module(*inputs))
            handle.remove()
            difference = float((changed - expected).abs().max()) / float(expected.std())
            assert difference > 0.005 or not disturb.ran, path


def first(outputs: object) -> torch.Tensor:
    return outputs[0] if isinstance(outputs, tuple) else outputs


class Disturb:
    """Adds noise to what an attention module returns."""

    def __init__(self) -> None:
        self.ran = False

    def __call__(self, module: object, inputs: object, output: object) -> object:
        self.ran = True
        if isinstance(output, dict):
            name, result = next(iter(output.items()))
            return {**output, name: noisy(result)}
        if isinstance(output, tuple):
            return (noisy(output[0]), *output[1:])
        return noisy(output)


def noisy(result: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(result.shape, generator=torch.Generator().manual_seed(0))
    return result + 0.3 * result.std() * noise
