"""Proof of a rewrite's structure: the part of the model that a site replaces against the operator, both in float.

What quantization costs is another matter, measured on captured activations (verify/sites.py). Here both sides compute
the same mathematics, so that any fault of a match (a head, a sign, a mask, a view) stands out of the rounding of
float32 by many orders of magnitude. Half floats are widened for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from qfa_passes.core.model import LoadedModel
from qfa_passes.core.outcome import Proof, Standing
from qfa_passes.core.passes import Contract
from qfa_passes.core.site import AttentionSite, Mask, MaskKind
from qfa_passes.core.view import apply_views
from qfa_passes.graph.layout import Layout
from qfa_passes.quant.masking import LOWEST_BIAS
from qfa_passes.verify.extents import assignments, solve
from qfa_passes.verify.metrics import tensor_error
from qfa_passes.verify.region import OpenRegionError, Region, Source, extract
from qfa_passes.verify.region_key import region_key
from qfa_passes.verify.trial import ReplacementError, Replay, Run, Trial, TrialError, shape_of
from qfa_passes.verify.widen import widened_site

Array = npt.NDArray[Any]

STRUCTURE_BOUND: Final = 1e-10
"""NMSE between two float computations of the same mathematics; 1e-13 is usual in float32."""

_SWALLOWED: Final = -1e3
"""Where every key that a row sees has a bias below this, float32 has lost the scores."""
_TRIES: Final = 4
_LEAST: Final = 0.5
"""Share of the output that must have been compared."""
_BEYOND: Final = 4
"""Keys beyond a window, so that it shows."""


@dataclass(frozen=True, slots=True)
class Proven:
    """A proof with the runs that it rests on.

    Attributes:
        proof: The result.
        site: The site that it was made for, widened; equal blocks share one proof.
        samples: Values that the site reads and computes, by name, run by run.
    """

    proof: Proof
    site: AttentionSite
    samples: tuple[Mapping[str, Array], ...] = ()


class Prover:
    """Proves the sites of one model; equal blocks of different layers are proven once."""

    def __init__(
        self, model: LoadedModel, replay: Replay, *, thorough: bool, seed: int, library: bool
    ) -> None:
        """Takes the typed float model that the sites were found in.

        Args:
            model: The model.
            replay: Builds the model of a site's operator alone, in float.
            thorough: Tries several extents, and not just the first that the block takes.
            seed: Of random inputs.
            library: Whether the operator library is there, for blocks too large for numpy.
        """
        self._library = library
        self._source = Source.of(model)
        self._replay, self._thorough, self._seed = replay, thorough, seed
        self._known: dict[bytes, Proven] = {}

    def __call__(self, site: AttentionSite) -> Proven:
        """Proves one site."""
        try:
            region = extract(self._source, site.computes, site.reads)
        except OpenRegionError as error:
            return Proven(Proof(Standing.OPEN, reason=str(error)), site)
        key = region_key(self._source, region, site)
        if key not in self._known:
            self._known[key] = self._prove(site, region)
        return self._known[key]

    def _prove(self, site: AttentionSite, region: Region) -> Proven:
        source = self._source
        layout = Layout.of(site, source.shapes)
        try:
            dims = [dim for name in (*site.reads, *region.others) for dim in shape_of(source, name)]
        except TrialError as error:
            return Proven(Proof(Standing.OPEN, reason=str(error)), site)
        dims += [item for name in region.shaped for item in source.shapes.contents[name].items]
        solution = solve(region, site, source, layout)
        window = max(site.mask.left_window, site.mask.right_window)
        outcome = Proven(Proof(Standing.OPEN, reason="no extents are found that it takes"), site)
        for least in (window + _BEYOND, 1) if window > 0 else (1,):
            outcome = self._try(
                site, region, layout, assignments(solution, layout, dims, least), outcome
            )
            if outcome.proof.standing is Standing.DISPROVEN:
                return outcome
            if outcome.proof.standing is Standing.PROVEN:
                short = 0 < least < window
                note = f"its window of {window} keys is longer than these runs" if short else ""
                return replace(outcome, proof=replace(outcome.proof, reason=note))
        return outcome

    def _try(
        self,
        site: AttentionSite,
        region: Region,
        layout: Layout,
        choices: Iterator[dict[str, int]],
        outcome: Proven,
    ) -> Proven:
        """Compares at the first extents that the block takes, or at all of them."""
        proofs: list[Proof] = []
        runs: list[Run] = []
        for numbers in choices:
            try:
                trial = Trial(self._source, site, region, layout, numbers, library=self._library)
                proof, tried = self._compare(site, trial)
            except TrialError as error:
                outcome = Proven(Proof(Standing.OPEN, reason=str(error)), site)
                continue
            except ReplacementError as error:
                return Proven(Proof(Standing.DISPROVEN, reason=str(error)), site)
            proofs.append(proof)
            runs += tried
            if proof.standing is Standing.DISPROVEN or not self._thorough:
                break
        if not proofs:
            return outcome
        samples = tuple({**run.given, **run.wanted} for run in runs)
        return Proven(_joined(proofs), widened_site(site), samples)

    def _compare(self, site: AttentionSite, trial: Trial) -> tuple[Proof, list[Run]]:
        worst, contract = 0.0, Contract.EXACT
        kept: list[Run] = []
        # Only a mask can hide everything from a row.
        for number, hidden in enumerate((False, True) if site.mask.terms else (False,)):
            for attempt in range(_TRIES):  # other numbers where the block happens to give NaN
                generator = np.random.default_rng((self._seed, number, attempt))
                run = trial.run(self._replay, generator, hidden=hidden)
                difference = _difference(site, run)
                if difference.compared >= _LEAST:
                    break
            else:
                raise TrialError(f"most of its output is no number ({trial.sizes})")
            kept.append(run)
            worst = max(worst, difference.nmse)
            if difference.refined:
                contract = Contract.REFINES_NAN
            if not worst <= STRUCTURE_BOUND:
                reason = difference.reason or (
                    f"in float it differs from the block that it replaces: NMSE {worst:.1e}"
                    f" (bound {STRUCTURE_BOUND:.0e}) at {trial.sizes}"
                )
                return Proof(
                    Standing.DISPROVEN, contract, worst, number + 1, trial.sizes, reason
                ), kept
        return Proof(Standing.PROVEN, contract, worst, len(kept), trial.sizes), kept


@dataclass(frozen=True, slots=True)
class _Difference:
    nmse: float
    compared: float
    refined: bool
    reason: str = ""


def _difference(site: AttentionSite, run: Run) -> _Difference:
    """What differs where the contract promises the same numbers."""
    worst, refined, share = 0.0, False, 1.0
    for name, wanted in run.wanted.items():
        got = run.got[name]
        if got.shape != wanted.shape:
            reason = f"'{name}' has shape {wanted.shape}, from its replacement {got.shape}"
            return _Difference(np.inf, 1.0, False, reason)
        counts = np.ones(wanted.shape, np.bool_)
        if name == site.output:
            lost = np.isnan(wanted)
            counts = ~lost
            if run.level is not None:
                counts &= ~_laid_out(site, _swallowed(site, run.level))
            refined = bool((lost & np.isfinite(got)).any())
            share = float(counts.mean()) if counts.size else 0.0
        worst = max(worst, tensor_error(wanted[counts], got[counts]).nmse)
    return _Difference(worst, share, refined)


def _swallowed(site: AttentionSite, level: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Rows (B, H, S, 1) that see nothing but masked keys, where the model's numbers are those of rounding.

    A mask of finite numbers leaves such rows a mean of V. What else hides keys decides of which, in ways that only the
    order of float32 additions knows; such rows are padding. With one mask alone the mean is over all keys.
    """
    mask = site.mask
    finite = [
        term for term in mask.terms if term.kind is not MaskKind.BIAS and np.isfinite(term.fill)
    ]
    hidden = level <= _SWALLOWED
    if not finite:
        return hidden & np.isfinite(level)
    bare = replace(mask, terms=()) == Mask() and len(mask.terms) == 1
    return hidden & ~(bare & (level <= LOWEST_BIAS))


def _laid_out(site: AttentionSite, rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Flags of rows (B, H, S, 1) in the layout of the output."""
    flags = np.broadcast_to(rows, (*rows.shape[:3], site.v_channels))
    return apply_views(flags, site.output_views)


def _joined(proofs: list[Proof]) -> Proof:
    last = proofs[-1]
    refines = any(proof.contract is Contract.REFINES_NAN for proof in proofs)
    return Proof(
        last.standing,
        Contract.REFINES_NAN if refines else Contract.EXACT,
        max(proof.nmse or 0.0 for proof in proofs),
        sum(proof.runs for proof in proofs),
        "; ".join(dict.fromkeys(proof.sizes for proof in proofs)),
        last.reason,
    )
