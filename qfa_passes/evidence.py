"""What running the float model showed: statistics of every site, and activations to measure candidates on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy.typing as npt

from qfa_passes.calibrate import SiteStatistics, capture
from qfa_passes.config import Options, Progress
from qfa_passes.core.dataset import DataSet, Feed
from qfa_passes.core.formats import Rotation, VerifyLevel
from qfa_passes.core.model import LoadedModel, opset_of
from qfa_passes.core.plan import Plan, SitePlan, StaticScales
from qfa_passes.core.site import AttentionSite
from qfa_passes.errors import InvalidDataError
from qfa_passes.fuse.replay import replay_model, site_values
from qfa_passes.verify.sites import SiteError, measure_site
from qfa_passes.verify.whole_model import tensor_outputs

Array = npt.NDArray[Any]

HELD_RUNS: Final = 2
"""Runs whose activations are kept for measuring sites; statistics see all runs."""


class Evidence:
    """Runs of one normalized model.

    Attributes:
        model: The model.
        data: The inputs of all runs; empty if the model was not run.
        runs: Captured values of the first runs, by name.
        statistics: Of every site, by name.
    """

    def __init__(
        self, model: LoadedModel, options: Options, progress: Progress, *, library: bool
    ) -> None:
        """Takes the normalized float model; ``library`` tells whether the operator library is there."""
        self.data = DataSet((), "")
        self.runs: list[dict[str, Array]] = []
        self.model = model
        self._options, self._progress, self._library = options, progress, library
        self.statistics: dict[str, SiteStatistics] = {}

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """Inputs of the held runs."""
        return self.data.feeds[: len(self.runs)]

    def gather(self, sites: Sequence[AttentionSite], data: DataSet) -> None:
        """Runs the model on all of the data.

        Raises:
            InvalidDataError: There is no sample, or Q, K or V of a site is not finite.
        """
        if not data.feeds:
            raise InvalidDataError(
                f"the calibration data ({data.label}) holds no sample",
                hint="give at least one, or no data at all",
            )
        self.data, self.runs = data, []
        self.statistics = {site.name: SiteStatistics(site) for site in sites}
        names = [name for site in sites for name in (*site_values(site), site.output)]
        names += tensor_outputs(self.model.proto.graph)
        for number, values in enumerate(capture(self.model, names, data.feeds)):
            self._progress("calibrate", number, len(data.feeds))
            for statistics in self.statistics.values():
                statistics.update(values, f"run {number} of {data.label}")
            if number < HELD_RUNS:
                self.runs.append(values)

    def forget(self) -> None:
        """Frees everything, as if the model had not been run."""
        self.data, self.runs, self.statistics = DataSet((), ""), [], {}

    def forget_inner_values(self) -> None:
        """Frees everything but the outputs of the model; no site can be measured afterwards."""
        outputs = tensor_outputs(self.model.proto.graph)
        self.runs = [{name: run[name] for name in outputs} for run in self.runs]

    def measure(self, sites: Sequence[AttentionSite], plan: Plan) -> dict[str, SiteError]:
        """Runs the operator of each planned site on the captured inputs; returns errors by site."""
        if not self.measures:
            return {}
        opset = opset_of(self.model.proto)
        errors: dict[str, SiteError] = {}
        for number, site in enumerate(sites):
            self._progress("measure sites", number, len(sites))
            entry = plan.site(site.name)
            if entry is None or not entry.quantized:
                continue
            replay = replay_model(site, entry, plan.k_mean(entry), self.runs[0], opset)
            errors[site.name] = measure_site(site, replay, self.runs, library=self._library)
        return errors

    def pair_steps(self, site: AttentionSite, entry: SitePlan) -> StaticScales:
        """Steps for the Q/DQ pairs of a site; where nothing was run, fusing takes them away again and any will do."""
        known = self.statistics.get(site.name)
        if known is not None and (entry.scales is None or entry.rotation is not Rotation.NONE):
            return known.scales()  # the plan's steps are those of the rotated Q and K
        return entry.scales or StaticScales((1.0,), (1.0,), (1.0,))

    @property
    def measures(self) -> bool:
        """Whether sites can be measured: the model was run, and verification is on."""
        return self._options.verify is not VerifyLevel.OFF and bool(self.runs)
