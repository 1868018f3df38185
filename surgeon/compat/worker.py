"""One worker of a sweep: names on stdin, a finding a line on stdout.

A process of its own: a model that crashes or hangs takes this worker with it and nobody else.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    import warnings

    warnings.simplefilter("ignore")
    import torch

    from surgeon.compat.survey import survey

    torch.set_num_threads(1)
    answers.write("ready\n")
    for line in sys.stdin:
        answers.write(json.dumps(survey(line.strip()).to_dict()) + "\n")


if __name__ == "__main__":
    main()
