"""Records as a run would leave them."""

from qfa_passes.core.comparison import (
    GuardVerdict,
    LanguageComparison,
    Latency,
    ModelComparison,
    ModelFacts,
    TensorError,
    Verdict,
)
from qfa_passes.core.formats import AttentionFormat
from qfa_passes.core.outcome import (
    Proof,
    Report,
    SiteOutcome,
    SiteStatus,
    StageTiming,
    Standing,
)

HOSTILE = "evil\x1b[31m[bold]\u202e\n/Softmax"


def comparison(verdict: Verdict = Verdict.PASS, *, language: bool = True) -> ModelComparison:
    return ModelComparison(
        a=ModelFacts("model.onnx", 540_842_897, 0, 30),
        b=ModelFacts("model.qfa.onnx", 539_842_897, 29, 1),
        data="heldout.txt (16 blocks of 512 tokens)",
        samples=16,
        outputs={"logits": TensorError(1e-3, 0.9995, 0.25, 1000)},
        language=LanguageComparison(
            8176, 39.24, 39.28, 0.001, -0.0004, 0.0024, 3e-4, 2e-3, 0.1, 0.987
        )
        if language
        else None,
        guard=GuardVerdict(verdict, () if verdict is Verdict.PASS else ("KL divergence 0.5",)),
        latency=Latency(0.02, 0.01, 7, "input_ids (1, 512)"),
        warnings=("little text",),
    )


def report(name: str = "/layers.0/Softmax") -> Report:
    return Report(
        source="model.onnx",
        target="model.qfa.onnx",
        sites=[
            SiteOutcome(
                name,
                SiteStatus.FUSED,
                nmse=1.5e-5,
                bound=5e-4,
                description="GQA 9:3",
                proof=Proof(Standing.PROVEN, nmse=1e-14, runs=2, sizes="B 2, S 5, T 7"),
                format=AttentionFormat.INT8,
            ),
            SiteOutcome("b", SiteStatus.RESTORED, "NMSE above the bound", float("nan"), 5e-4),
            SiteOutcome("c", SiteStatus.REFUSED, "softmax axis is 1"),
        ],
        timings=[StageTiming("match", 0.5), StageTiming("save", 1.0)],
        data="seeded random inputs",
        model_nmse={"logits": float("inf")},
        warnings=["no calibration data"],
        sizes={"before": 1_000_000, "after": 900_000},
    )
