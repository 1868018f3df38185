"""Kill runs and studies with kill -9 at random points, resume them, compare every byte.

    python tools/kill_and_resume.py [--points 20] [--seed 0] [--case invert]

Each case runs once undisturbed; then, for each point, once more in a folder of its own, where it is
killed at a random moment between its first checkpoint and its end, and resumed. Of a study with two
workers it is the study's own process that is killed, or one of its workers, in turn. What is
compared: every file but `timing.json`, which holds times. Exits 1 unless all are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

STUDY = """\
schema = 1
title = "kills"
probes = ["invert"]
[axes]
model = [
    { label = "vit", spec = { name = "surgeon/vit_fashion", weights = "fashion" } },
    { label = "mixer", spec = { name = "surgeon/mixer_fashion", weights = "fashion" } },
]
k = [0, 1, 2]
[recipe]
model = "${model.spec}"
[[recipe.operations]]
op = "truncate"
site = "blocks[${k}]"
[recipe.input]
image = "surgeon:rocket"
[recipe.probes.invert]
method = "adam"
steps = 120
[[findings]]
claim = "something comes back"
check = "above"
figure = "psnr"
threshold = 10.0
"""


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
        folder: that `surgeon resume` is given.
        kills_worker: whether a worker of it is killed too, every second time.
    """

    name: str
    command: tuple[str, ...]
    folder: str
    kills_worker: bool = False


CASES = (
    Case("invert", ("apply", "surgeon:quickstart", "--out", "out", "--set",
                    "probes.invert.method=adam", "--set", "probes.invert.steps=300"), "out"),
    Case("generate", ("apply", "surgeon:generate", "--out", "out", "--set",
                      "probes.generate.steps=80"), "out"),
    Case("study", ("study", "kills.toml", "--out", "out", "--store", "store", "--workers", "2"),
         "out", kills_worker=True),
)  # fmt: skip


def surgeon(arguments: tuple[str, ...], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    (folder / "kills.toml").write_text(STUDY)
    log = (folder / "log").open("ab")
    code = "from surgeon_cli.app import run; run()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, stdout=log, stderr=log
    )


def has_begun(folder: Path) -> bool:
    """Whether a run saved its first checkpoint."""
    return any(folder.rglob("checkpoint.safetensors")) or any(folder.rglob("run.json"))


def files(folder: Path) -> dict[str, str]:
    """Every file's hash; times, locks, and what this script wrote left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        ignored = {"timing.json", "log", "kills.toml", ".hashes.json"}
        if path.is_file() and path.name not in ignored and ".locks" not in name:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def undisturbed(case: Case, folder: Path) -> float:
    """Run a case to its end; seconds from its first checkpoint on."""
    process = surgeon(case.command, folder)
    while not has_begun(folder) and process.poll() is None:
        time.sleep(0.01)
    began = time.monotonic()
    assert process.wait() == 0, (folder / "log").read_text()
    return time.monotonic() - began


def children(pid: int) -> list[int]:
    """Its child processes (Linux)."""
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def killed(case: Case, folder: Path, seconds: float, worker: int | None) -> str:
    """Kill a case so many seconds after its first checkpoint; what was killed, if it had not ended.

    Args:
        worker: which of its workers, None: the command's own process.
    """
    process = surgeon(case.command, folder)
    while not has_begun(folder) and process.poll() is None:
        time.sleep(0.002)
    time.sleep(seconds)
    if process.poll() is not None:
        return ""
    workers = children(process.pid) if worker is not None else []
    if workers:
        os.kill(workers[worker % len(workers)], signal.SIGKILL)
        process.wait()  # it starts another worker and goes on
        return "a worker"
    process.send_signal(signal.SIGKILL)
    process.wait()
    return "the process"


def resumed(case: Case, folder: Path) -> None:
    """Resume until it has ended; begin again where it was killed before it had begun."""
    place = folder / case.folder
    while not (place / "run.json").exists() and not (
        (place / "figure.png").exists() and not (place / "underway.json").exists()
    ):
        again = ("resume", case.folder) if place.exists() else case.command
        assert surgeon(again, folder).wait() == 0, (folder / "log").read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", choices=[case.name for case in CASES])
    asked = parser.parse_args()
    chance = random.Random(asked.seed)
    cases = [case for case in CASES if asked.case in (None, case.name)]
    same = 0
    with tempfile.TemporaryDirectory() as root:
        lengths, expected = {}, {}
        for case in cases:
            folder = Path(root) / case.name
            lengths[case.name] = undisturbed(case, folder)
            expected[case.name] = files(folder)
        for point in range(asked.points):
            case = cases[point % len(cases)]
            folder = Path(root) / f"{case.name}-{point}"
            share, worker = chance.random(), chance.randrange(2)
            odd = case.kills_worker and point // len(cases) % 2
            while True:
                what = killed(case, folder, share * lengths[case.name], worker if odd else None)
                if what:
                    break
                shutil.rmtree(folder)  # it had ended: again, sooner
                share *= 0.9
            resumed(case, folder)
            found = files(folder)
            wrong = {n for n in found.keys() | expected[case.name].keys()
                     if found.get(n) != expected[case.name].get(n)}  # fmt: skip
            same += not wrong
            print(f"{point + 1:3} {case.name:9} killed {what} at {share:4.0%} of"
                  f" {lengths[case.name]:.1f} s: {len(found)} files,"
                  f" {'all the same' if not wrong else f'OTHERS: {sorted(wrong)}'}",
                  flush=True)  # fmt: skip
    print(f"{same} of {asked.points} byte-identical to the undisturbed run")
    return int(same < asked.points)


if __name__ == "__main__":
    sys.exit(main())
