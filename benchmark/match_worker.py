"""One matcher on one model after another: reads tasks as JSON lines, answers each with a line.

    python -m benchmark.match_worker MATCHER

It runs as a process of its own: optimizers crash, hang, and leave state behind.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import sys
import warnings
from dataclasses import asdict

from benchmark.match_ours import ours_float, ours_inspect, ours_int8
from benchmark.match_peers import onnxscript_fusion, ort_optimizer
from benchmark.match_task import Answer, Task, brief

MATCHERS = {
    "inspect": ours_inspect,
    "float": ours_float,
    "int8": ours_int8,
    "ort": ort_optimizer,
    "onnxscript": onnxscript_fusion,
}


def main() -> None:
    """Serves until standard input ends."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    matcher = MATCHERS[sys.argv[1]]
    # Libraries print; the answers have the real standard output to themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = Task(**json.loads(line))
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                answer = matcher(task)
            except Exception as error:
                answer = Answer(problem=brief(error))
        print(json.dumps(asdict(answer)), file=answers, flush=True)


if __name__ == "__main__":
    main()
