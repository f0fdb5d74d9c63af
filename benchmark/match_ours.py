"""This project as a matcher."""

from __future__ import annotations

from benchmark.match_task import Answer, Task, compared, runnable


def ours_inspect(task: Task) -> Answer:
    """What `inspect` says."""
    import qfa_passes
    from qfa_passes.core.site import AttentionSite

    found = qfa_passes.inspect(task.path)
    refusals = tuple(entry.reason for entry in found if not isinstance(entry, AttentionSite))
    return Answer(fused=len(found) - len(refusals), refusals=refusals)


def ours_float(task: Task) -> Answer:
    """What `optimize --format float` leaves, and how far it is from torch."""
    return _optimized(task, "float")


def ours_int8(task: Task) -> Answer:
    """What `optimize --format int8` leaves, and its error."""
    return _optimized(task, "int8")


def _optimized(task: Task, format_: str) -> Answer:
    import onnxruntime

    import qfa_passes
    from qfa_passes.api import count_fused
    from qfa_passes.core.dataset import DataSet
    from qfa_passes.core.outcome import SiteStatus

    # Made-up inputs would be longer than these small models have positions for.
    feeds = tuple(sample.inputs for sample in runnable(task))
    data = DataSet(feeds, "the samples of the zoo")
    result = qfa_passes.optimize(task.path, format=format_, calibration=data)
    reasons = tuple(
        site.reason for site in result.report.sites if site.status is not SiteStatus.FUSED
    )
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(qfa_passes.get_library_path()))
    answer = Answer(fused=count_fused(result.model), refusals=reasons)
    return compared(result.model, task, answer, options=options, quantized=format_ == "int8")
