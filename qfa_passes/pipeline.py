"""THE order of things: load, normalize, match, calibrate, plan, rewrite, fuse, verify, save.

Each stage is a folder and knows only the shared vocabulary; this file alone knows their order and says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx
from onnx import ModelProto

from qfa_passes.config import Options, Progress, StopAfter
from qfa_passes.core.dataset import DataSet
from qfa_passes.core.formats import AttentionFormat, ScaleMode, VerifyLevel
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.outcome import Report, StageTiming
from qfa_passes.core.plan import Plan, SitePlan
from qfa_passes.core.site import AttentionSite, Refusal
from qfa_passes.errors import NothingMatchedError, QfaError
from qfa_passes.evidence import HELD_RUNS, Evidence
from qfa_passes.fuse.attach_body import attach_body, present_channels
from qfa_passes.fuse.fuse_attention import FuseAttention
from qfa_passes.graph.graph_pass import GraphPass, run_passes
from qfa_passes.graph.ir import Graph
from qfa_passes.match import find_sites
from qfa_passes.normalize import NORMALIZE, raise_opset
from qfa_passes.plan.fit import fit_plan
from qfa_passes.plan.plan_file import check_plan, read_plan
from qfa_passes.report.outcomes import site_outcomes
from qfa_passes.rewrite import InsertQdq
from qfa_passes.rewrite.insert_qdq import shared_view
from qfa_passes.runtime.environment import (
    describe_environment,
    library_or_none,
    library_problem,
)
from qfa_passes.save import write_model
from qfa_passes.save.serialize import serialize_inline
from qfa_passes.verify.models import CALIBRATION_KEY, model_facts, verify_models
from qfa_passes.verify.seeded import seeded_data
from qfa_passes.verify.sites import SiteError
from qfa_passes.verify.whole_model import check_exact, compare_outputs, run_outputs, tensor_outputs


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the pipeline made."""

    model: LoadedModel
    plan: Plan
    report: Report


def normalize(model: LoadedModel, passes: Sequence[GraphPass] = NORMALIZE) -> LoadedModel:
    """The canonical float graph, with types and shapes."""
    graph = Graph(typed(raise_opset(model.proto)))
    run_passes(graph, passes)
    return model.replace_proto(typed(graph.finish()))


def match(model: LoadedModel) -> list[AttentionSite | Refusal]:
    """The attention of a normalized model."""
    return find_sites(Graph(model.proto))


def typed(proto: ModelProto) -> ModelProto:
    """Adds inferred types and shapes; a model that inference rejects is returned as it is."""
    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return proto


class Run:
    """One run of the pipeline over one model."""

    def __init__(
        self, source: LoadedModel, options: Options, data: DataSet | None, progress: Progress | None
    ) -> None:
        """Takes a loaded model; ``data`` is calibration data or None."""
        self.source, self.options, self.data = source, options, data
        self.report = Report(source=str(source.path or "<ModelProto>"), settings=options.as_words())
        self._progress: Progress = progress or (lambda stage, done, total: None)
        self._library = library_or_none()

    def __call__(self, output: Path | None) -> Outcome:
        """Runs all stages up to ``options.stop_after``; an error carries the report of what was done until then."""
        try:
            return self._run(output)
        except QfaError as error:
            error.report = self.report
            raise

    def _run(self, output: Path | None) -> Outcome:
        with self._stage("normalize"):
            normal = normalize(self.source)
        with self._stage("match"):
            found = match(normal)
        sites = [entry for entry in found if isinstance(entry, AttentionSite)]
        self._warn_of_idle_requests(sites)
        chosen = self._chosen(normal, sites)
        active = [site for site in sites if site.name not in chosen]
        evidence = Evidence(normal, self.options, self._progress, library=self._library is not None)
        if self._needs_runs(active):
            with self._stage("calibrate"):  # before planning: the plan follows what is measured
                evidence.gather(active, self._data(normal))
        with self._stage("plan"):
            plan, errors = self._plan(evidence, active, chosen)
        evidence.forget_inner_values()
        result = normal
        if self.options.stop_after is not StopAfter.NORMALIZE:
            with self._stage("rewrite"):  # before fusing: the Q/DQ graph is an artefact of its own
                result = self._rewrite(normal, plan, active, evidence)
        if self.options.stop_after is StopAfter.FUSE:
            with self._stage("fuse"):  # finds the sites again, through their Q/DQ pairs
                result, lost = self._fuse(result, plan)
                if lost:  # a Q/DQ pair must not stay where nothing is fused
                    plan = _exempted(plan, dict.fromkeys(lost, "its Q/DQ form is not recognised"))
                    result, _ = self._fuse(self._rewrite(normal, plan, active, evidence), plan)
        with self._stage("verify"):
            self._verify_model(normal, result, evidence)
        self.report.sites = site_outcomes(
            found,
            plan,
            errors,
            bound=self.options.max_error,
            stopped="" if self.options.stop_after is StopAfter.FUSE else self.options.stop_after,
        )
        if self.options.require_match and not any(entry.quantized for entry in plan.sites):
            raise NothingMatchedError(
                f"no attention was fused in '{self.report.source}'",
                why="; ".join(dict.fromkeys(site.reason for site in self.report.sites))
                or "it has none",
                hint="run `inspect` to see what was found",
            )
        if output is not None and not self.options.dry_run:
            with self._stage("save"):  # last: nothing is written before everything is checked
                self._save(result, output)
        self.report.environment = describe_environment(self._library)
        return Outcome(result, plan, self.report)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._progress(name, 0, 1)
        start = time.perf_counter()
        yield
        self.report.timings.append(StageTiming(name, time.perf_counter() - start))
        self._progress(name, 1, 1)

    def _warn_of_idle_requests(self, sites: list[AttentionSite]) -> None:
        """Says in the report what was asked for and will have no effect."""
        warnings = self.report.warnings
        fused = model_facts(self.source).fused
        if fused:
            warnings.append(f"fused already, and left as they are: {fused} attention blocks")
        elif not sites:
            warnings.append("no attention was matched: nothing is quantized; see `inspect`")
        for pattern in self.options.exclude:
            if not any(pattern.search(site.name) for site in sites):
                warnings.append(f"exclude pattern '{pattern.pattern}' matches no site")
        if self.options.verify is VerifyLevel.OFF:
            warnings.append("nothing was verified: verify is off")

    def _chosen(self, normal: LoadedModel, sites: list[AttentionSite]) -> dict[str, str]:
        """Sites that stay in float by choice, with the reason."""
        exempt: dict[str, str] = {}
        if self.options.attention is AttentionFormat.NONE:
            return {site.name: "attention format is none" for site in sites}
        graph = Graph(normal.proto)
        for site in sites:
            if any(pattern.search(site.name) for pattern in self.options.exclude):
                exempt[site.name] = "excluded by name"
                continue
            for operand in (site.query, site.key, site.value):
                outsider = shared_view(graph, operand)
                if outsider is not None:
                    exempt[site.name] = f"{outsider} reads a reshaped Q, K or V of this block too"
        return exempt

    def _needs_runs(self, sites: list[AttentionSite]) -> bool:
        """Whether the model must be run: to measure, or for steps that calibration alone can find."""
        if self.options.stop_after is StopAfter.NORMALIZE or not sites:
            return self.options.verify is VerifyLevel.FULL
        steps = (
            self.options.scale_mode is ScaleMode.STATIC
            or self.options.stop_after is StopAfter.REWRITE
        )
        return self.options.verify is not VerifyLevel.OFF or self.data is not None or steps

    def _data(self, normal: LoadedModel) -> DataSet:
        """The inputs to run the float model on; says in the report what they are."""
        data = self.data
        if data is None:
            data = seeded_data(normal.proto, seed=self.options.seed, samples=HELD_RUNS)
            self.report.warnings.append(
                "no calibration data: sites are verified on seeded random inputs; give --calib for real ones"
            )
            if self.options.scale_mode is ScaleMode.STATIC and self.options.plan is None:
                self.report.warnings.append(
                    "static steps come from random inputs and will not fit real ones"
                )
        if self._library is None:
            self.report.warnings.append(
                "sites are measured by their function body, without the operator library: "
                f"{library_problem()}; see `doctor`"
            )
        self.report.data = data.label
        return data

    def _plan(
        self, evidence: Evidence, sites: list[AttentionSite], exempt: dict[str, str]
    ) -> tuple[Plan, dict[str, SiteError]]:
        """Decides, measures, and takes back what is out of bound."""
        names = {site.name for site in sites}
        if self.options.plan is not None:
            plan = fit_plan(self._given_plan(self.options.plan, names | exempt.keys()), sites)
            errors = evidence.measure(sites, plan)
        else:
            plan, errors = evidence.best_plan(
                self.source.digest, sites, shift_keys=self.data is not None
            )
        out = {name for name, error in errors.items() if not error.within(self.options.max_error)}
        kept = tuple(
            replace(entry, format=AttentionFormat.NONE) if entry.name in out else entry
            for entry in plan.sites
        )
        return _exempted(replace(plan, sites=kept), exempt), errors

    def _given_plan(self, plan: Path | Plan, names: Collection[str]) -> Plan:
        if isinstance(plan, Plan):
            check_plan(plan, "the given plan", self.source.digest, names)
            return plan
        return read_plan(plan, model_digest=self.source.digest, site_names=names)

    def _rewrite(
        self, normal: LoadedModel, plan: Plan, sites: list[AttentionSite], evidence: Evidence
    ) -> LoadedModel:
        graph = Graph(normal.proto)
        marked = []
        for site in sites:
            entry = plan.site(site.name)
            if entry is not None and entry.quantized:
                marked.append((site, evidence.pair_steps(site, entry)))
        run_passes(graph, [InsertQdq(marked)])
        return normal.replace_proto(typed(graph.finish()))

    def _fuse(self, quantized: LoadedModel, plan: Plan) -> tuple[LoadedModel, set[str]]:
        """Fuses what the plan names; also returns the names of sites that the matcher does not find again."""
        graph = Graph(quantized.proto)
        chosen: list[tuple[AttentionSite, SitePlan]] = []
        for site in find_sites(graph):
            entry = plan.site(site.name) if isinstance(site, AttentionSite) else None
            if (
                isinstance(site, AttentionSite)
                and site.quantized
                and entry is not None
                and entry.quantized
            ):
                chosen.append((site, entry))
        shifts = {site.name: plan.k_mean(entry) for site, entry in chosen}
        k_means = {name: shift for name, shift in shifts.items() if shift is not None}
        run_passes(graph, [FuseAttention(chosen, k_means)])
        lost = {entry.name for entry in plan.sites if entry.quantized} - {
            site.name for site, _ in chosen
        }
        if not chosen:
            return quantized, lost
        proto = graph.finish()
        channels = {site.qk_channels for site, _ in chosen} | present_channels(quantized.proto)
        attach_body(proto, channels.pop() if len(channels) == 1 else None)
        if self.data is not None and self.data.digest:
            onnx.helper.set_model_props(
                proto,
                {entry.key: entry.value for entry in proto.metadata_props}
                | {CALIBRATION_KEY: self.data.digest},
            )
        return quantized.replace_proto(typed(proto)), lost

    def _verify_model(self, normal: LoadedModel, result: LoadedModel, evidence: Evidence) -> None:
        if self.options.verify is VerifyLevel.OFF or not evidence.runs:
            return
        if self.options.verify is VerifyLevel.FULL:
            stages: list[tuple[str, Callable[[], LoadedModel]]] = [
                ("raise-opset", lambda: normalize(self.source, ()))
            ]
            for count, graph_pass in enumerate(NORMALIZE, start=1):
                stages.append((graph_pass.name, partial(normalize, self.source, NORMALIZE[:count])))
            check_exact(run_outputs(self.source, evidence.feeds), evidence.feeds, stages)
        if result is not normal:
            self.report.model_nmse = compare_outputs(
                result, evidence.feeds, evidence.runs, library=self._library is not None
            )
        plain = len(tensor_outputs(normal.proto.graph)) == len(normal.proto.graph.output)
        if (
            self.options.verify is VerifyLevel.FULL
            and result is not normal
            and plain
            and self._library
        ):
            self.report.comparison = verify_models(self.source, result, evidence.data)

    def _save(self, result: LoadedModel, output: Path) -> None:
        saved = write_model(
            result, output, external_data=self.options.external_data, source=self.source.path
        )
        self.report.target = str(output)
        self.report.sizes = {"before": serialize_inline(self.source).nbytes, "after": saved.nbytes}
        for path in saved.stale:
            self.report.warnings.append(f"'{path}' is no longer used by '{output}'")


def _exempted(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """The plan with some sites left in float, with the reason."""
    others = tuple(entry for entry in plan.sites if entry.name not in reasons)
    left = tuple(
        SitePlan(name, AttentionFormat.NONE, exempt=reason) for name, reason in reasons.items()
    )
    return replace(plan, sites=others + left)
