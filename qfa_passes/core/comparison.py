"""Model B held against model A: the records that verification fills and that reports show."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class TensorError:
    """Distance of a tensor from its reference.

    Attributes:
        nmse: Squared error over squared reference; infinite if they disagree on what is finite.
        cosine: Cosine of the angle between them as vectors; 1 if both are zero.
        max_abs: Largest absolute difference.
        elements: Number of compared elements.
        nonfinite: Elements where one is NaN or infinite and the other is not the same.
    """

    nmse: float
    cosine: float
    max_abs: float
    elements: int
    nonfinite: int = 0


@dataclass(frozen=True, slots=True)
class LanguageComparison:
    """The same predictions by two language models.

    Attributes:
        tokens: Number of predicted tokens.
        perplexity_a: Of the reference.
        perplexity_b: Of the other model.
        change: Relative change of the perplexity, 0.01 = one per cent worse.
        change_low: Lower end of its 95 % confidence interval (paired over tokens).
        change_high: Upper end.
        kld_mean: Mean Kullback-Leibler divergence KL(A || B) of the next-token distributions, nats.
        kld_p99: Its 99th percentile over tokens.
        kld_max: Its maximum.
        top1: Share of predictions where both models prefer the same token.
    """

    tokens: int
    perplexity_a: float
    perplexity_b: float
    change: float
    change_low: float
    change_high: float
    kld_mean: float
    kld_p99: float
    kld_max: float
    top1: float


@dataclass(frozen=True, slots=True)
class Latency:
    """Median seconds per run.

    Attributes:
        seconds_a: Of the reference.
        seconds_b: Of the other model.
        runs: Timed runs of each.
        shape: What one run takes in, in words.
    """

    seconds_a: float
    seconds_b: float
    runs: int
    shape: str


class Verdict(StrEnum):
    """What the guard says."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class GuardVerdict:
    """The guard's answer.

    Attributes:
        verdict: The worst of all measures.
        findings: One line per measure that does not pass.
        notes: Lines that say how far the answer can be trusted.
    """

    verdict: Verdict
    findings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What tables say of a model besides its accuracy.

    Attributes:
        name: Its file name, or ``<ModelProto>``.
        file_bytes: Size with external data; None if it is no file.
        fused: Number of fused attention nodes; None if unknown.
        attention: Number of attention sites that are not fused; None if nobody looked.
        in_float: Number of fused nodes that quantize nothing.
    """

    name: str
    file_bytes: int | None = None
    fused: int | None = None
    attention: int | None = None
    in_float: int = 0


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Two whole models on the same data.

    Attributes:
        a: The reference.
        b: The other model.
        data: Where the inputs came from, in words.
        samples: Number of runs.
        outputs: Error by output name.
        language: Measures of the predictions; None if the models are no language models.
        guard: The verdict.
        latency: Timing; None if not asked for.
        warnings: What the reader should know.
    """

    a: ModelFacts
    b: ModelFacts
    data: str
    samples: int
    outputs: Mapping[str, TensorError]
    language: LanguageComparison | None
    guard: GuardVerdict
    latency: Latency | None = None
    warnings: tuple[str, ...] = ()
