"""What is known of the sites of one graph: proofs of structure, statistics, activations to measure candidates on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy.typing as npt
from onnx import ModelProto

from qfa_passes.calibrate import SiteStatistics, capture
from qfa_passes.config import Options, Progress
from qfa_passes.core.dataset import DataSet, Feed
from qfa_passes.core.formats import Rotation, VerifyLevel
from qfa_passes.core.model import LoadedModel, opset_of
from qfa_passes.core.outcome import Standing
from qfa_passes.core.plan import Plan, SitePlan, StaticScales
from qfa_passes.core.site import AttentionSite
from qfa_passes.errors import InvalidDataError
from qfa_passes.fuse.replay import float_model, replay_model, site_values
from qfa_passes.verify.definition import run_by_definition
from qfa_passes.verify.proof import Proven, Prover
from qfa_passes.verify.sites import SiteError, measure_site
from qfa_passes.verify.whole_model import tensor_outputs

Array = npt.NDArray[Any]

HELD_RUNS: Final = 2
"""Runs whose activations are kept for measuring sites; statistics see all runs."""


class Evidence:
    """Runs of one normalized model, and proofs of its sites.

    Attributes:
        model: The model.
        data: The inputs of all runs; empty if the model was not run.
        runs: Captured values of the first runs, by name.
        statistics: Of every site, by name.
        proofs: Of the structure of sites, by name.
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
        self.proofs: dict[str, Proven] = {}
        self._clean: dict[str, list[dict[str, Array]]] = {}  # by site, without its own roundings

    def prove(self, sites: Sequence[AttentionSite]) -> None:
        """Proves the structure of sites, in float; does nothing if verification is off."""
        if self._options.verify is VerifyLevel.OFF or not sites:
            return
        opset = opset_of(self.model.proto)

        def replay(site: AttentionSite, examples: Mapping[str, Array]) -> ModelProto:
            return float_model(site, examples, opset)

        thorough = self._options.verify is VerifyLevel.FULL
        prover = Prover(
            self.model,
            replay,
            thorough=thorough,
            seed=self._options.seed,
            library=self._library,
        )
        for number, site in enumerate(sites):
            self._progress("prove sites", number, len(sites))
            self.proofs[site.name] = prover(site)

    @property
    def disproven(self) -> dict[str, str]:
        """Sites whose replacement is not the same mathematics, with the reason."""
        return {
            name: entry.proof.reason
            for name, entry in self.proofs.items()
            if entry.proof.standing is Standing.DISPROVEN
        }

    @property
    def proven(self) -> set[str]:
        """Sites whose replacement is the same mathematics."""
        return {
            name for name, entry in self.proofs.items() if entry.proof.standing is Standing.PROVEN
        }

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
        self._clean.clear()
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
        self._clean.clear()

    def forget_inner_values(self) -> None:
        """Frees everything but the outputs of the model; no site can be measured afterwards."""
        outputs = tensor_outputs(self.model.proto.graph)
        self.runs = [{name: run[name] for name in outputs} for run in self.runs]
        self._clean.clear()

    def measure(self, sites: Sequence[AttentionSite], plan: Plan) -> dict[str, SiteError]:
        """Runs the operator of each planned site on the captured inputs; returns errors by site.

        Where the model was not run, the random inputs of the proofs take their place.
        """
        if not self.measures:
            return {}
        opset = opset_of(self.model.proto)
        errors: dict[str, SiteError] = {}
        for number, site in enumerate(sites):
            self._progress("measure sites", number, len(sites))
            entry = plan.site(site.name)
            if entry is None or not entry.quantized:
                continue
            block, runs = self._runs_of(site)
            if not runs:
                continue
            replay = replay_model(block, entry, plan.k_mean(entry), runs[0], opset)
            errors[site.name] = measure_site(block, replay, runs, library=self._library)
        return errors

    def _runs_of(self, site: AttentionSite) -> tuple[AttentionSite, Sequence[Mapping[str, Array]]]:
        """What a site is measured on, and the site as it stands there."""
        proven = self.proofs.get(site.name)
        if proven is None:
            return site, self.runs
        if not self.runs:
            return proven.site, proven.samples
        if site.rounded and site.name in self.proven:
            return site, self._unrounded(site)
        return site, self.runs

    def _unrounded(self, site: AttentionSite) -> Sequence[Mapping[str, Array]]:
        """The runs with the site's output as it is without the block's own roundings, which the operator leaves out.

        It comes from the definition in float64, which the block was proven to be but for them.
        """
        if site.name not in self._clean:  # every candidate is held against the same
            runs = []
            for values in self.runs:
                proto = float_model(site, values, opset_of(self.model.proto))
                (outputs, _) = run_by_definition(proto, values)
                output = outputs[site.output].astype(values[site.output].dtype)
                runs.append({**values, site.output: output})
            self._clean[site.name] = runs
        return self._clean[site.name]

    def pair_steps(self, site: AttentionSite, entry: SitePlan) -> StaticScales:
        """Steps for the Q/DQ pairs of a site; where nothing was run, fusing takes them away again and any will do."""
        known = self.statistics.get(site.name)
        if known is not None and (entry.scales is None or entry.rotation is not Rotation.NONE):
            return known.scales()  # the plan's steps are those of the rotated Q and K
        return entry.scales or StaticScales((1.0,), (1.0,), (1.0,))

    @property
    def measures(self) -> bool:
        """Whether sites can be measured: there are runs, and verification is on."""
        return self._options.verify is not VerifyLevel.OFF and bool(self.runs or self.proven)
