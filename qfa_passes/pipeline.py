"""THE order of things: load, normalize, match, calibrate, plan, rewrite, fuse, verify, save.

Each stage is a folder and knows only the shared vocabulary; this file alone knows their order and says why. Every
stage goes over all scopes of the model: its main graph, and the bodies that hold attention (opened.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import onnx
from onnx import ModelProto

from qfa_passes.calibration import Calibration, Sites, calibrate
from qfa_passes.config import Options, Progress, StopAfter
from qfa_passes.core.dataset import DataSet
from qfa_passes.core.formats import AttentionFormat, Rotation, ScaleMode, VerifyLevel
from qfa_passes.core.model import LoadedModel
from qfa_passes.core.outcome import Proof, Report, StageTiming
from qfa_passes.core.plan import Plan
from qfa_passes.core.site import AttentionSite
from qfa_passes.errors import InvalidDataError, NothingMatchedError, QfaError
from qfa_passes.evidence import HELD_RUNS
from qfa_passes.fuse.attach_body import attach_body, present_channels
from qfa_passes.fusing import fuse, mark
from qfa_passes.graph.initializer_order import order_initializers
from qfa_passes.graph.typed import typed
from qfa_passes.left_alone import LeftAlone
from qfa_passes.normalize import normalize_passes
from qfa_passes.opened import (
    Scope,
    drop_idle_functions,
    match,
    match_scopes,
    normalize,
    open_model,
    rebuild,
    reopened,
)
from qfa_passes.planning import Errors, Part, exempted, left_in_float, make_plan
from qfa_passes.report.outcomes import site_outcomes
from qfa_passes.runtime.environment import (
    describe_environment,
    library_or_none,
    library_problem,
)
from qfa_passes.save import write_model
from qfa_passes.save.serialize import serialize_inline
from qfa_passes.verify.models import CALIBRATION_KEY, model_facts, verify_models
from qfa_passes.verify.seeded import seeded_data
from qfa_passes.verify.whole_model import check_exact, compare_outputs, tensor_outputs

__all__ = ["Outcome", "Run", "match", "normalize", "typed"]


_FAR: Final = 0.01
"""NMSE of an output of the whole model that a user should hear of."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run of the pipeline made."""

    model: LoadedModel
    plan: Plan
    report: Report


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
        self._left = LeftAlone()

    def __call__(self, output: Path | None) -> Outcome:
        """Runs all stages up to ``options.stop_after``; an error carries the report of what was done until then."""
        try:
            return self._run(output)
        except QfaError as error:
            error.report = self.report
            raise

    def _run(self, output: Path | None) -> Outcome:
        while True:
            scopes, exempt = self._open()
            active = _active(scopes, exempt)
            calibration = Calibration.unknown(scopes, self.options, self._progress)
            if self._needs_runs(active):
                with self._stage("calibrate"):  # before planning: the plan follows what is measured
                    calibration = self._calibrate(scopes, active)
                with self._stage("prove"):  # before planning: what is not the same is not planned
                    exempt |= calibration.prove(active, steps=self._needs_steps)
            with self._stage("plan"):
                plan, errors = self._plan(calibration, _active(scopes, exempt), exempt)
            calibration.forget_inner_values()
            result, plan = self._change(scopes, plan, calibration)
            fused = [entry.name for entry in plan.sites if entry.quantized]
            idle = self._left.idle(scopes, fused)
            if not idle:
                break
            # What was written out for nothing stays as the source has it: once more, without writing it out.
            self._left.add(idle, scopes, plan, errors, self.options.max_error, calibration.proofs)
        with self._stage("verify"):
            self._verify(scopes, result, calibration)
        plan = self._left.completed(plan)
        self._tell(scopes, plan, errors, calibration.proofs)
        if output is not None and not self.options.dry_run:
            with self._stage("save"):  # last: nothing is written before everything is checked
                self._save(result, output)
        self.report.environment = describe_environment(self._library)
        return Outcome(result, plan, self.report)

    def _open(self) -> tuple[list[Scope], dict[str, str]]:
        """Normalizes, takes bodies out and matches; also returns what stays in float by choice, with the reason."""
        while True:
            with self._stage("normalize"):
                scopes = open_model(self.source, self._left.origins)
            with self._stage("match"):
                scopes = match_scopes(scopes, self._left.origins | self._left.outcomes.keys())
            if self._left.take_back(scopes):
                continue
            self._left.see([entry for scope in scopes for entry in scope.found])
            exempt: dict[str, str] = {}
            for scope in scopes:
                exempt |= left_in_float(scope, self.options)
            hopeful = [site.name for sites in _active(scopes, exempt).values() for site in sites]
            idle = self._left.idle(scopes, hopeful)
            if not idle:
                self._warn_of_idle_requests()
                return scopes, exempt
            self._left.by_choice(idle, scopes, exempt)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._progress(name, 0, 1)
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        timings = {timing.stage: timing for timing in self.report.timings}
        before = timings[name].seconds if name in timings else 0.0
        timings[name] = StageTiming(name, before + seconds)
        self.report.timings = list(timings.values())
        self._progress(name, 1, 1)

    def _warn_of_idle_requests(self) -> None:
        """Says in the report what was asked for and will have no effect."""
        sites = self._left.sites
        fused = model_facts(self.source).fused
        if fused:
            self._warn(f"fused already, and left as they are: {fused} attention blocks")
        elif not sites:
            self._warn("no attention was matched: nothing is quantized; see `inspect`")
        for pattern in self.options.exclude:
            if not any(pattern.search(name) for name in sites):
                self._warn(f"exclude pattern '{pattern.pattern}' matches no site")
        asked = {
            "rotate": self.options.rotation is Rotation.HADAMARD,
            "scale_mode": self.options.scale_mode is ScaleMode.STATIC,
        }
        idle = [name for name, given in asked.items() if given]
        if self.options.attention is AttentionFormat.FLOAT and idle:
            self._warn(f"{' and '.join(idle)} without effect: nothing is quantized in float")
        if self.options.verify is VerifyLevel.OFF:
            self._warn("nothing was verified: verify is off")

    def _warn(self, text: str) -> None:
        if text not in self.report.warnings:
            self.report.warnings.append(text)

    def _needs_runs(self, active: Sites) -> bool:
        """Whether the model must be run: to measure, or for steps that calibration alone can find."""
        if self.options.stop_after is StopAfter.NORMALIZE or not any(active.values()):
            return self.options.verify is VerifyLevel.FULL
        verified = self.options.verify is not VerifyLevel.OFF
        return verified or self.data is not None or self._needs_steps

    @property
    def _needs_steps(self) -> bool:
        """Whether steps are wanted that calibration alone can find."""
        static = self.options.scale_mode is ScaleMode.STATIC
        return static or self.options.stop_after is StopAfter.REWRITE

    def _calibrate(self, scopes: list[Scope], active: Sites) -> Calibration:
        calibration = calibrate(
            scopes,
            active,
            self._data(scopes[0].model),
            self.options,
            self._progress,
            library=self._library is not None,
        )
        for note in calibration.notes:
            self._warn(note)
        return calibration

    def _data(self, normal: LoadedModel) -> DataSet:
        """The inputs to run the float model on; says in the report what they are."""
        data = self.data
        if data is None:
            try:
                data = seeded_data(normal.proto, seed=self.options.seed, samples=HELD_RUNS)
            except InvalidDataError as error:
                # Blocks are verified alone then, on random Q, K and V.
                data = DataSet((), error.what, seeded=True)
            self._warn(
                "no calibration data: sites are verified on seeded random inputs; give --calib for real ones"
            )
            if self.options.scale_mode is ScaleMode.STATIC and self.options.plan is None:
                self._warn("static steps come from random inputs and will not fit real ones")
        if self._library is None:
            self._warn(
                "sites are measured by their function body, without the operator library: "
                f"{library_problem()}; see `doctor`"
            )
        self.report.data = data.label
        return data

    def _plan(
        self, calibration: Calibration, active: Sites, exempt: dict[str, str]
    ) -> tuple[Plan, Errors]:
        parts = [Part(calibration.evidence[prefix], sites) for prefix, sites in active.items()]
        return make_plan(
            self.source,
            self.options,
            [part for part in parts if part.sites],
            exempt,
            known=self._left.sites,
            real_data=self.data is not None,
        )

    def _change(
        self, scopes: list[Scope], plan: Plan, calibration: Calibration
    ) -> tuple[LoadedModel, Plan]:
        """Rewrites and fuses what the plan names, inner bodies first; the plan learns what could not be fused."""
        stop = self.options.stop_after

        def change(scope: Scope, model: LoadedModel) -> LoadedModel | None:
            nonlocal plan
            if stop is StopAfter.NORMALIZE:
                return model
            evidence = calibration.evidence[scope.prefix]
            while True:
                with self._stage("rewrite"):  # before fusing: the Q/DQ graph is an artefact too
                    marked = mark(model, plan, scope.sites, evidence)
                if stop is StopAfter.REWRITE:
                    return marked
                with self._stage("fuse"):  # finds the sites again, through their Q/DQ pairs
                    fused, lost = fuse(marked or model, plan, scope)
                if not lost:
                    return fused
                # A Q/DQ pair must not stay where nothing is fused.
                plan = exempted(plan, dict.fromkeys(lost, "its Q/DQ form is not recognised"))

        result = rebuild(scopes, change)
        drop_idle_functions(result.proto, self.source.proto)
        planned = {entry.name for entry in plan.sites if entry.quantized}
        served = [site for scope in scopes for site in scope.sites if site.name in planned]
        if stop is not StopAfter.FUSE or not served:
            return result, plan
        with self._stage("fuse"):  # one function body for the nodes of all scopes
            channels = {site.qk_channels for site in served}
            channels |= present_channels(scopes[0].model.proto)
            attach_body(result.proto, channels.pop() if len(channels) == 1 else None)
            order_initializers(result.proto.graph)
            self._mark_calibration(result.proto)
            return result.replace_proto(typed(result.proto)), plan

    def _mark_calibration(self, proto: ModelProto) -> None:
        if self.data is not None and self.data.digest:
            known = {entry.key: entry.value for entry in proto.metadata_props}
            onnx.helper.set_model_props(proto, known | {CALIBRATION_KEY: self.data.digest})

    def _verify(self, scopes: list[Scope], result: LoadedModel, calibration: Calibration) -> None:
        """Compares outputs before and after: of the model, and of every body that was run."""
        evidence = calibration.evidence[""]
        if self.options.verify is VerifyLevel.OFF or not evidence.runs:
            return
        full, normal = self.options.verify is VerifyLevel.FULL, scopes[0].model
        note = check_exact(
            self.source,
            evidence.feeds,
            evidence.runs,
            self._exact_stages(scopes),
            thorough=full,
        )
        if note:
            self._warn(note)
        if result is normal:
            return
        for scope, model in reopened(result, scopes):
            seen = calibration.evidence[scope.prefix]
            if seen.runs:
                errors = compare_outputs(
                    model,
                    seen.feeds,
                    seen.runs,
                    library=self._library is not None,
                )
                self.report.model_nmse |= {scope.prefix + name: e for name, e in errors.items()}
        far = [name for name, nmse in self.report.model_nmse.items() if nmse > _FAR]
        if far and evidence.data.seeded:
            self._warn(
                f"outputs moved a lot ({', '.join(far[:3])}) on made-up inputs, though every block is within its bound;"
                " compare on real ones: `verify A B --data`"
            )
        plain = len(tensor_outputs(normal.proto.graph)) == len(normal.proto.graph.output)
        if full and plain and self._library:
            self.report.comparison = verify_models(self.source, result, evidence.data)

    def _exact_stages(self, scopes: list[Scope]) -> list[tuple[str, Callable[[], LoadedModel]]]:
        """The steps of normalization, each with the model after it."""
        keep = self._left.origins
        names = ["inline-functions", *(each.name for each in normalize_passes())]
        stages: list[tuple[str, Callable[[], LoadedModel]]] = [
            (name, partial(normalize, self.source, keep, count)) for count, name in enumerate(names)
        ]
        bodies = ("bodies", lambda: rebuild(scopes, lambda scope, model: model))
        return [*stages, bodies] if len(scopes) > 1 else stages

    def _tell(
        self, scopes: list[Scope], plan: Plan, errors: Errors, proofs: Mapping[str, Proof]
    ) -> None:
        """Fills the report; fails if something had to be fused and nothing was."""
        self.report.sites = self._left.complete(
            site_outcomes(
                [entry for scope in scopes for entry in scope.found],
                plan,
                errors,
                bound=self.options.max_error,
                stopped=""
                if self.options.stop_after is StopAfter.FUSE
                else self.options.stop_after,
                proofs=proofs,
            )
        )
        if self.options.require_match and not any(entry.quantized for entry in plan.sites):
            raise NothingMatchedError(
                f"no attention was fused in '{self.report.source}'",
                why="; ".join(dict.fromkeys(site.reason for site in self.report.sites))
                or "it has none",
                hint="run `inspect` to see what was found",
            )

    def _save(self, result: LoadedModel, output: Path) -> None:
        saved = write_model(
            result, output, external_data=self.options.external_data, source=self.source.path
        )
        self.report.target = str(output)
        self.report.sizes = {"before": serialize_inline(self.source).nbytes, "after": saved.nbytes}
        for path in saved.stale:
            self._warn(f"'{path}' is no longer used by '{output}'")


def _active(scopes: Sequence[Scope], exempt: Collection[str]) -> dict[str, list[AttentionSite]]:
    """Sites that may be quantized, by the prefix of their scope."""
    return {
        scope.prefix: [site for site in scope.sites if site.name not in exempt] for scope in scopes
    }
