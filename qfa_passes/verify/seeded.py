"""Plausible inputs for a model without data; they say nothing of the inputs it will really meet."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto

from qfa_passes.core.dataset import DataSet
from qfa_passes.core.printable import printable
from qfa_passes.errors import InvalidDataError
from qfa_passes.verify.inputs import InputSpec, inputs_of_model, token_input
from qfa_passes.verify.open_axes import open_sizes

LABEL: Final = "seeded random inputs"

SEQUENCE: Final = 80
"""Length of open axes: more than one key block of the operator, and no multiple of it."""

_PASS_INDEX: Final = frozenset(
    {
        "Cast",
        "Identity",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Clip",
        "Transpose",
        "Expand",
    }
)
_PASS_TABLE: Final = frozenset({"Cast", "Identity", "DequantizeLinear"})
_SHOWN: Final = 0.7
_DEFAULT_BOUND: Final = 2
"""Integers of unknown meaning are 0 or 1: valid for flags, segment numbers and any table."""


def seeded_data(
    proto: ModelProto,
    *,
    seed: int = 0,
    samples: int = 1,
    batch: int = 1,
    sequence: int = SEQUENCE,
    sizes: Mapping[str, int] | None = None,
    vocabulary: int | None = None,
) -> DataSet:
    """Makes inputs that the model accepts, the same for the same arguments.

    Masks hide nothing in the first, third ... sample and the last quarter in the others.

    Args:
        proto: The model (a shell is enough).
        seed: Of the random numbers.
        samples: Number of feeds.
        batch: Size of open first axes, where the nodes do not ask for another.
        sequence: Size of all other open axes, likewise.
        sizes: Sizes of open axes by their symbol, over the two above.
        vocabulary: Bound of token numbers; None looks for the table that they index.

    Raises:
        InvalidDataError: The model has an input that nothing plausible is known for.
    """
    specs = inputs_of_model(proto)
    bounds = index_bounds(proto.graph)
    tokens = token_input(specs)
    if vocabulary is not None and tokens is not None:
        bounds[tokens.name] = vocabulary
    open_axes = open_sizes(proto, batch, sequence) | dict(sizes or {})
    shapes = {spec.name: _shape(spec, batch, sequence, open_axes) for spec in specs}
    generator = np.random.default_rng(seed)
    feeds = tuple(
        {
            spec.name: _array(
                spec, shapes[spec.name], bounds.get(spec.name), generator, padded=number % 2 == 1
            )
            for spec in specs
        }
        for number in range(samples)
    )
    return DataSet(feeds, f"{LABEL} (seed {seed})", seeded=True)


def _shape(spec: InputSpec, batch: int, sequence: int, sizes: Mapping[str, int]) -> tuple[int, ...]:
    shape = []
    for axis, size in enumerate(spec.shape):
        if isinstance(size, int):
            shape.append(size)
        elif isinstance(size, str) and size in sizes:
            shape.append(sizes[size])
        else:
            shape.append(batch if axis == 0 else sequence)
    return tuple(shape)


def _array(
    spec: InputSpec,
    shape: tuple[int, ...],
    bound: int | None,
    generator: np.random.Generator,
    *,
    padded: bool,
) -> npt.NDArray[np.generic]:
    if spec.dtype is None:
        raise InvalidDataError(
            f"input '{printable(spec.name)}': no random inputs can be made for its type",
            hint="give verification data, or --verify off",
        )
    name = spec.name.lower()
    if "mask" in name:
        mask = np.ones(shape, spec.dtype)
        # A mask of ones would hide that it was lost. Zeros mean padding for flags only: a mask of
        # floats may as well be added.
        if padded and shape and spec.dtype.kind != "f":
            mask[..., shape[-1] - shape[-1] // 4 :] = 0
        return mask
    if name == "position_ids":
        return np.ascontiguousarray(np.broadcast_to(np.arange(shape[-1]), shape), spec.dtype)
    if spec.dtype.kind == "f":
        return generator.standard_normal(shape).astype(spec.dtype)
    if spec.dtype.kind == "b":
        # Of flags the first choice is no. What has rows may be a mask, of either sense.
        rows = len(shape) > 1 and np.prod(shape) > 1
        return np.asarray(generator.random(shape) < (_SHOWN if rows else 0))  # no scalar
    return generator.integers(0, bound or _DEFAULT_BOUND, shape).astype(spec.dtype)


def index_bounds(graph: GraphProto) -> dict[str, int]:
    """Finds, for graph inputs that index the first axis of a constant table, its number of rows."""
    rows = _table_rows(graph)
    # Walk from every input to the Gather nodes that it reaches unchanged in value.
    sources = {value.name: {value.name} for value in graph.input}
    bounds: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _PASS_INDEX and node.input and node.input[0] in sources:
            sources.setdefault(node.output[0], set()).update(sources[node.input[0]])
        axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
        if node.op_type == "Gather" and axis == 0 and node.input[0] in rows:
            for name in sources.get(node.input[1], ()):
                size = rows[node.input[0]]
                bounds[name] = min(size, bounds.get(name, size))
    return bounds


def _table_rows(graph: GraphProto) -> dict[str, int]:
    rows = {tensor.name: tensor.dims[0] for tensor in graph.initializer if tensor.dims}
    for node in graph.node:
        if node.op_type in _PASS_TABLE and node.input and node.input[0] in rows:
            rows[node.output[0]] = rows[node.input[0]]
        elif node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value" and attribute.t.dims:
                    rows[node.output[0]] = attribute.t.dims[0]
    return {name: size for name, size in rows.items() if size > 0}
