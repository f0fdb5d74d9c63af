"""Reading inner values of a model while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, ValueInfoProto, numpy_helper

from qfa_passes.core.model import LoadedModel
from qfa_passes.runtime.session import create_session, explain_failure

Array = npt.NDArray[Any]


def capture(
    model: LoadedModel,
    names: Sequence[str],
    feeds: Iterable[Mapping[str, Array]],
    *,
    threads: int | None = None,
) -> Iterator[dict[str, Array]]:
    """Runs a model and yields the asked-for values of each run, one run at a time.

    Args:
        model: A float model; only its shell is copied.
        names: Values of the main graph: inputs, initializers or computed.
        feeds: One dictionary of inputs per run.
        threads: Threads of the runtime; None for its default.

    Yields:
        The values by name; memory holds those of one run.

    Raises:
        RuntimeFailureError: The model does not load, or does not take a feed.
    """
    inputs = {value.name for value in model.proto.graph.input}
    constants = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.proto.graph.initializer
        if tensor.name in names and not tensor.external_data
    }
    computed = [
        name for name in dict.fromkeys(names) if name not in inputs and name not in constants
    ]
    session = create_session(
        _exposing(model, computed), use_library=False, threads=threads, prepack=False
    )
    for number, feed in enumerate(feeds):
        try:
            values = session.run(computed, dict(feed)) if computed else []
        except Exception as error:  # ONNX Runtime's exceptions share no other base class
            shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
            raise explain_failure(
                f"the float model failed on run {number} ({shapes})", error
            ) from error
        found: dict[str, Array] = dict(zip(computed, map(np.asarray, values), strict=True))
        found |= {name: constants[name] for name in names if name in constants}
        found |= {name: np.asarray(feed[name]) for name in names if name in inputs}
        yield found


def _exposing(model: LoadedModel, names: Sequence[str]) -> LoadedModel:
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    present = {value.name for value in proto.graph.output}
    typed = {value.name: value for value in proto.graph.value_info}
    for name in names:
        if name not in present:
            proto.graph.output.append(typed.get(name, ValueInfoProto(name=name)))
    return model.replace_proto(proto)
