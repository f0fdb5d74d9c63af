"""The table of docs/backend-suite.md: ``python -m tests.backend.page`` writes it."""

from qfa_passes.core.site import AttentionSite, MaskKind, Refusal
from tests.backend.suite import EXPANDED, PAGE, cases, found

SCORES = "qk_matmul_output"
MARK = "| model | the operator | its expanded form |\n|---|---|---|\n"


def asks_for_scores(name: str) -> bool:
    """True for a case whose model has the score matrix as an output."""
    operator = name.removesuffix(EXPANDED)
    return any(value.name == SCORES for value in cases()[operator].model.graph.output)


def page() -> str:
    """The page as it should be: the text above the table as it stands, and the table."""
    above, mark, _ = PAGE.read_text().partition(MARK)
    assert mark, f"no table in {PAGE}"
    return above + mark + "\n".join(_rows()) + "\n"


def _rows() -> list[str]:
    operators = [name for name in cases() if not name.endswith(EXPANDED)]
    return [f"| `{name}` | {_outcome(name)} | {_outcome(name + EXPANDED)} |" for name in operators]


def _outcome(name: str) -> str:
    record = found(name)
    if isinstance(record, Refusal):
        return "refused: the scores are an output" if asks_for_scores(name) else record.reason
    return f"fused: {_words(record)}"


def _words(site: AttentionSite) -> str:
    mask = site.mask
    words = [f"heads {site.num_heads}:{site.kv_num_heads}"]
    words += ["causal"] if mask.causal else []
    words += [f"{mask.left_window} to the left"] if mask.left_window >= 0 else []
    words += [f"{mask.right_window} to the right"] if mask.right_window >= 0 else []
    words += ["queries at the end"] if mask.queries_at_end else []
    words += ["lengths"] if mask.kv_length is not None else []
    words += ["bias" if term.kind is MaskKind.BIAS else "mask" for term in mask.terms]
    words += [f"softcap {site.softcap:g}"] if site.softcap else []
    words += ["cache"] if site.cache is not None else []
    return ", ".join(words)


if __name__ == "__main__":
    PAGE.write_text(page())
