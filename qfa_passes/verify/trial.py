"""One block and its replacement at given extents, run on the same random inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.site import AttentionSite
from qfa_passes.core.weights import WeightStore
from qfa_passes.errors import QfaError
from qfa_passes.graph.layout import Layout
from qfa_passes.graph.shapes import Shape
from qfa_passes.runtime.session import create_session
from qfa_passes.verify.definition import run_by_definition
from qfa_passes.verify.draws import draw
from qfa_passes.verify.region import Region, Source, region_model
from qfa_passes.verify.widen import pass_pairs, round_constants, widen, widened_site

Array = npt.NDArray[Any]
Replay = Callable[[AttentionSite, Mapping[str, Array]], ModelProto]

_BY_DEFINITION: Final = 1 << 22
"""Scores that are computed in float64; more take seconds, and a kernel milliseconds."""
_MOST_SCORES: Final = 1 << 25


class TrialError(Exception):
    """The block itself cannot be run at these extents."""


class ReplacementError(Exception):
    """The block runs, and its replacement does not."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of both sides.

    Attributes:
        given: What the block reads, by name.
        wanted: What the block computes, by name.
        got: What its replacement computes.
        level: (B, H, S, 1): the largest bias among the keys that a row sees; None where there are no masks.
    """

    given: dict[str, Array]
    wanted: dict[str, Array]
    got: dict[str, Array]
    level: npt.NDArray[np.float32] | None


class Trial:
    """A block with numbers for all its extents.

    Attributes:
        sizes: The numbers in words.
    """

    def __init__(
        self,
        source: Source,
        site: AttentionSite,
        region: Region,
        layout: Layout,
        numbers: Mapping[str, int],
        *,
        library: bool,
    ) -> None:
        """Builds the model of the block; raises TrialError where these numbers do not fit.

        Without the library, or with masks, large blocks are not tried.
        """
        self._site, self._region = site, region
        self._shapes = {
            name: tuple(dim.at(numbers) for dim in shape_of(source, name))
            for name in dict.fromkeys((*site.reads, *region.others))
        }
        self._types = {name: source.types.get(name, site.dtype) for name in self._shapes}
        self._shaped = {name: _shaped(source, name, numbers) for name in region.shaped}
        self._queries, self._keys = layout.queries.at(numbers), layout.all_keys.at(numbers)
        batch = layout.batch.at(numbers)
        self.sizes = f"B {batch}, S {self._queries}, T {self._keys}"
        scores = batch * site.num_heads * self._queries * self._keys
        self._by_kernel = scores > _BY_DEFINITION
        tried = library and not site.mask.terms and scores <= _MOST_SCORES
        if self._by_kernel and not tried:
            raise TrialError(f"its score matrix is too large for a float64 one ({self.sizes})")
        if min((extent for shape in self._shapes.values() for extent in shape), default=1) < 1:
            raise TrialError(f"a value would be empty at {self.sizes}")
        late = site.mask.queries_at_end or site.mask.left_window >= 0
        if late and self._queries > self._keys:
            raise TrialError(f"there would be more queries than keys ({self.sizes})")
        names = [*region.inputs, *region.others]
        extents = {name: list(self._shapes[name]) for name in names}
        extents |= {name: list(array.shape) for name, array in self._shaped.items()}
        proto = region_model(source, region, extents)
        pass_pairs(proto)
        widen(proto)
        round_constants(proto, source.types, self._shaped)
        self._run_block = _runner(proto)

    def run(self, replay: Replay, generator: np.random.Generator, *, hidden: bool) -> Run:
        """Draws inputs and runs both sides; raises TrialError or ReplacementError."""
        site, region = self._site, self._region
        given = draw(
            site,
            self._shapes,
            self._types,
            (self._queries if site.mask.queries_at_end else 1, self._keys),
            generator,
            hidden=hidden,
        )
        feeds = {name: given[name] for name in (*region.inputs, *region.others)}
        wanted = dict(zip(region.outputs, self._run_block(feeds | self._shaped), strict=True))
        proto = replay(widened_site(site), given)
        try:
            if self._by_kernel:
                return Run(given, wanted, _by_kernel(proto, given), None)
            got, node = run_by_definition(proto, given)
        except Exception as error:  # the reference evaluator raises whatever numpy raises
            raise ReplacementError(f"its replacement does not run: {error}") from error
        return Run(given, wanted, got, node.level)


def shape_of(source: Source, name: str) -> Shape:
    """The symbolic shape of a value; raises TrialError if its rank is not known."""
    shape = source.shapes.shapes.get(name)
    if shape is None:
        raise TrialError(f"the shape of '{name}' is not known")
    return shape


def _shaped(source: Source, name: str, numbers: Mapping[str, int]) -> Array:
    content = source.shapes.contents[name]
    items = np.array([item.at(numbers) for item in content.items])
    kind = helper.tensor_dtype_to_np_dtype(source.types.get(name, TensorProto.INT64))
    return (items.reshape(()) if content.scalar else items).astype(kind)


def _by_kernel(proto: ModelProto, given: Mapping[str, Array]) -> dict[str, Array]:
    session = create_session(LoadedModel(proto, WeightStore(), None, ""))
    feeds = {value.name: given[value.name] for value in session.get_inputs()}
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _runner(proto: ModelProto) -> Callable[[Mapping[str, Array]], list[Array]]:
    """Runs a block in ONNX Runtime; by the reference evaluator where that lacks an operator or a version."""
    try:
        model = LoadedModel(proto, WeightStore(), None, "")
        session = create_session(
            model, use_library=False, threads=1, optimization="none", prepack=False
        )
    except QfaError as refused:
        return _by_reference(proto, f"ONNX Runtime does not load it ({refused.why})")
    names = [value.name for value in session.get_inputs()]

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        try:
            outputs: list[Array] = session.run(None, {name: feeds[name] for name in names})
        except Exception as error:  # ONNX Runtime's exceptions share no other base class
            return _by_reference(proto, f"ONNX Runtime does not run it ({error})")(feeds)
        return outputs

    return run


def _by_reference(proto: ModelProto, refused: str) -> Callable[[Mapping[str, Array]], list[Array]]:
    try:
        evaluator = ReferenceEvaluator(proto)
    except Exception as error:
        raise TrialError(f"{refused}, onnx.reference does not load it: {error}") from error

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        try:
            return list(evaluator.run(None, dict(feeds)))
        except Exception as error:
            raise TrialError(f"{refused}, onnx.reference does not run it: {error}") from error

    return run
