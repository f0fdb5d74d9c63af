"""What an If, Loop or Scan node gives its body, turn by turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from qfa_passes.core.dataset import Feed

Array = npt.NDArray[Any]
Values = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class BodyTurns(ABC):
    """One body of a control-flow node.

    Attributes:
        node: The node.
        attribute: Of the body.
        formal: Formal inputs of the body, in order.
        captured: Outer values that it reads by name.
    """

    node: NodeProto
    attribute: str
    formal: tuple[str, ...]
    captured: tuple[str, ...]

    @property
    def reads(self) -> list[str]:
        """Outer values that decide what the body is given."""
        return list(dict.fromkeys(name for name in (*self.node.input, *self.captured) if name))

    @abstractmethod
    def entered(self, values: Values) -> bool:
        """True if the body runs at all when the outer values are these."""

    @abstractmethod
    def first(self, values: Values) -> Feed:
        """Inputs of the first turn; also those that a body would have that is not entered."""

    def following(self, values: Values, outputs: Sequence[Array], turn: int) -> Feed | None:
        """Inputs of a later turn, after the body gave ``outputs``; None if there is no such turn."""
        return None

    def _feed(self, values: Values, formal: Sequence[Array]) -> Feed:
        given = dict(zip(self.formal, formal, strict=True))
        return given | {name: values[name] for name in self.captured}


class IfTurns(BodyTurns):
    """A branch: one turn, nothing but captured values."""

    def entered(self, values: Values) -> bool:
        """True if the condition chooses this branch."""
        return _flag(values[self.node.input[0]]) == (self.attribute == "then_branch")

    def first(self, values: Values) -> Feed:
        """The captured values."""
        return self._feed(values, [])


class LoopTurns(BodyTurns):
    """A Loop: the number of the turn, whether to go on, and what is carried from turn to turn."""

    def entered(self, values: Values) -> bool:
        """True if there is a first turn."""
        return self._most(values) > 0 and self._going(values)

    def first(self, values: Values) -> Feed:
        """What the loop starts with."""
        carried = [values[name] for name in self.node.input[2:]]
        return self._feed(values, [np.array(0, np.int64), np.array(True), *carried])

    def following(self, values: Values, outputs: Sequence[Array], turn: int) -> Feed | None:
        """What the last turn carried on."""
        if turn >= self._most(values) or not _flag(outputs[0]):
            return None
        carried = outputs[1 : len(self.formal) - 1]
        return self._feed(values, [np.array(turn, np.int64), np.array(True), *carried])

    def _most(self, values: Values) -> int:
        name = self.node.input[0] if self.node.input else ""
        return int(values[name].reshape(-1)[0]) if name else np.iinfo(np.int64).max

    def _going(self, values: Values) -> bool:
        name = self.node.input[1] if len(self.node.input) > 1 else ""
        return _flag(values[name]) if name else True


class ScanTurns(BodyTurns):
    """A Scan: states from turn to turn, and one slice of every scanned value."""

    def entered(self, values: Values) -> bool:
        """True if there is something to scan."""
        return self._length(values) > 0

    def first(self, values: Values) -> Feed:
        """The initial states and the first slices."""
        states = [values[name] for name in self.node.input[: -self._count]]
        return self._feed(values, states + self._slices(values, 0))

    def following(self, values: Values, outputs: Sequence[Array], turn: int) -> Feed | None:
        """The states of the last turn and the next slices."""
        if turn >= self._length(values):
            return None
        states = list(outputs[: len(self.formal) - self._count])
        return self._feed(values, states + self._slices(values, turn))

    @property
    def _count(self) -> int:
        return int(_attribute(self.node, "num_scan_inputs", 1))

    def _scanned(self, values: Values) -> list[tuple[Array, int, bool]]:
        """Every scanned value with its axis, and whether it is read from its end."""
        axes = _attribute(self.node, "scan_input_axes", [0] * self._count)
        backwards = _attribute(self.node, "scan_input_directions", [0] * self._count)
        names = self.node.input[-self._count :]
        return [
            (values[name], int(axis), bool(back))
            for name, axis, back in zip(names, axes, backwards, strict=True)
        ]

    def _length(self, values: Values) -> int:
        return min((array.shape[axis] for array, axis, _ in self._scanned(values)), default=0)

    def _slices(self, values: Values, turn: int) -> list[Array]:
        return [
            array.take(-1 - turn if back else turn, axis)
            for array, axis, back in self._scanned(values)
        ]


TURNS: Final[dict[str, type[BodyTurns]]] = {"If": IfTurns, "Loop": LoopTurns, "Scan": ScanTurns}
"""By operator of ai.onnx."""


def _flag(value: Array) -> bool:
    return bool(np.asarray(value).reshape(-1)[0])


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)
