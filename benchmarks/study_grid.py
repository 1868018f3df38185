"""What a grid of 200 runs costs when every run is there: a second call of the same study.

    python benchmarks/study_grid.py [--runs 200] [--workers 1]

Small runs (a packaged model, two steps), since a second call costs the same whatever the runs were:
it hashes what they depend on, reads 200 `run.json`, judges, draws and writes the report. Each call
is a process of its own; `user` is its processor time, which a busy machine does not lengthen much.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDY = """\
schema = 1
title = "A grid"
probes = ["invert"]
[axes]
k = [0, 1, 2, 3, 4]
seed = {seeds}
[recipe.model]
name = "surgeon/vit_fashion"
weights = "fashion"
[[recipe.operations]]
op = "truncate"
site = "blocks[${{k}}]"
[recipe.input]
image = "surgeon:rocket"
[recipe.probes.invert]
method = "adam"
steps = 2
seeds = ["${{seed}}"]
[[findings]]
claim = "something comes back"
check = "above"
figure = "psnr"
threshold = 0.0
"""


def call(folder: Path, workers: int) -> dict[str, float]:
    """One call of the study; seconds by the clock and of the processor, runs made."""
    code = "from surgeon_cli.app import run; run()"
    began, before = time.perf_counter(), os.times()
    subprocess.run(
        [sys.executable, "-c", code, "study", "grid.toml", "--workers", str(workers)],
        cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    spent = os.times()
    made = json.loads((folder / "runs/grid/timing.json").read_text())["made"]
    return {
        "clock": time.perf_counter() - began,
        "user": spent.children_user - before.children_user,
        "made": made,
    }


def changed_at(store: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in store.glob("*/*")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        seeds = list(range(-(-asked.runs // 5)))
        (folder / "grid.toml").write_text(STUDY.format(seeds=seeds))
        for name in ("first", "second", "third"):
            before = changed_at(folder / "runs/store")
            found = call(folder, asked.workers)
            untouched = before == changed_at(folder / "runs/store")
            print(f"{name:6} call: {found['clock']:6.1f} s by the clock, {found['user']:6.1f} s"
                  f" of the processor, {found['made']} runs made"
                  f"{', the store untouched' if untouched else ''}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
