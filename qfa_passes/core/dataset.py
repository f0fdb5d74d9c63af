"""Inputs for a model, ready to run: what calibration and verification go through."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Feed = dict[str, npt.NDArray[np.generic]]
"""Arrays by input name: one run of a model."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Inputs for a model.

    Attributes:
        feeds: One dictionary of arrays per run.
        label: Where they came from, in words.
        digest: SHA-256 of the file; tells whether two uses saw the same data. Empty if unknown.
        seeded: True if they are random: predicting their tokens says nothing about a model.
    """

    feeds: tuple[Feed, ...]
    label: str
    digest: str = ""
    seeded: bool = False
