"""What happened to each site and to the whole model: the records behind report.json and the tables."""

from dataclasses import dataclass, field
from enum import StrEnum

from qfa_passes.core.comparison import ModelComparison
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.passes import Contract


class SiteStatus(StrEnum):
    """Fate of one attention candidate."""

    FUSED = "fused"
    RESTORED = "restored"  # out of bound even in float, or not the same mathematics: put back
    EXEMPT = "exempt"  # left in float by the plan
    REFUSED = "refused"  # not understood


class Standing(StrEnum):
    """What is known of a rewrite's structure: the mathematics without quantization."""

    PROVEN = "proven"
    DISPROVEN = "disproven"
    OPEN = "open"  # it could not be tried


@dataclass(frozen=True, slots=True)
class Proof:
    """A block of the model and its replacement on the same random inputs, both in float.

    Attributes:
        standing: The result.
        contract: ``exact``, or ``refines-nan`` if rows that are NaN in the model are not in the replacement.
        nmse: Normalized mean squared error, the worst of all runs; None if nothing was compared.
        runs: Number of runs compared.
        sizes: Extents of the runs, such as ``B 2, S 5, T 7``.
        reason: Why it is not proven, or what the runs do not show; empty if there is nothing to say.
    """

    standing: Standing
    contract: Contract = Contract.EXACT
    nmse: float | None = None
    runs: int = 0
    sizes: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SiteOutcome:
    """One line of the site table.

    Attributes:
        name: The site's label.
        status: Its fate.
        reason: Why it is not fused, or not in the format that was asked for; else empty.
        nmse: Normalized mean squared error of its output against the float subgraph; None if not measured.
        bound: What nmse was held against; None if not measured.
        description: Heads, shapes and mask in a few words, e.g. ``GQA 9:3 D=64 causal``.
        proof: Of its structure; None if it was not tried.
        format: Arithmetic of its products if it is fused, else None.
    """

    name: str
    status: SiteStatus
    reason: str = ""
    nmse: float | None = None
    bound: float | None = None
    description: str = ""
    proof: Proof | None = None
    format: AttentionFormat | None = None


@dataclass(frozen=True, slots=True)
class StageTiming:
    """Seconds that one stage took."""

    stage: str
    seconds: float


@dataclass(slots=True)
class Report:
    """Everything `optimize` did, in the order of report.json.

    Attributes:
        source: Input path or "<ModelProto>".
        target: Output path, or empty.
        sites: One outcome per candidate, in graph order.
        timings: Seconds per stage.
        settings: The resolved options.
        data: Where verification inputs came from, in words ("seeded random inputs, not calibration data").
        model_nmse: NMSE per model output of the float against the fused model, on that data.
        warnings: What the user should know.
        environment: Versions, instruction set, threads.
        sizes: Bytes of the files before and after.
        comparison: The whole model before and after (`--verify full`); None if not measured.
    """

    source: str
    target: str = ""
    sites: list[SiteOutcome] = field(default_factory=list)
    timings: list[StageTiming] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    data: str = ""
    model_nmse: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    comparison: ModelComparison | None = None

    def count(self, status: SiteStatus) -> int:
        """Number of sites with this fate."""
        return sum(site.status is status for site in self.sites)

    def fused_in(self, form: AttentionFormat) -> int:
        """Number of sites that are fused in this format."""
        return sum(site.status is SiteStatus.FUSED and site.format is form for site in self.sites)
