"""How large a report of 200 runs is, and how soon Chromium has it ready.

One real run is repeated on paper: each of the 200 has its own images (the photo with noise of its
own), snapshots, figures and curves, so that nothing can be stored once for all but the target.

    python benchmarks/report_size.py [FOLDER] [--runs 200] [--side 224]

Needs chromium and chromedriver, and selenium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from skimage import data, transform

from surgeon.reports import write_report

LIMIT_SECONDS, LIMIT_MB, STEPS = 2.0, 25.0, (3, 8, 20, 50, 120, 300)
PARTS = ("as it is", "no norms", "no residuals", "no attention")
PHOTOS = {"astronaut": data.astronaut, "cat": data.chelsea, "coffee": data.coffee}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--side", type=int, default=224)
    asked = parser.parse_args()
    folder = Path(asked.folder or tempfile.mkdtemp())
    study = made_study(folder, asked.runs, asked.side)
    began = time.perf_counter()
    out = write_report([study], [], folder / "report.html")
    seconds = time.perf_counter() - began
    size = out.stat().st_size / 1e6
    print(f"{asked.runs} runs at {asked.side} px: written in {seconds:.1f} s, {size:.1f} MB")
    opened = sorted(load_seconds(out) for _ in range(5))
    print(f"ready in Chromium after {opened[2]:.2f} s (median of 5: {opened})")
    ended = "met" if size < LIMIT_MB and opened[2] < LIMIT_SECONDS else "MISSED"
    print(f"under {LIMIT_MB:.0f} MB and {LIMIT_SECONDS:.0f} s: {ended}")


def made_study(folder: Path, count: int, side: int) -> Path:
    """A study's folder of `count` runs, and theirs."""
    random = np.random.default_rng(0)
    photos = {n: transform.resize(load()[:300, :300], (side, side)) for n, load in PHOTOS.items()}
    depth = -(-count // (len(PARTS) * len(photos)))
    cells = []
    for k in range(depth):
        for part in PARTS:
            for name, photo in photos.items():
                if len(cells) == count:
                    break
                run = folder / "store" / f"{len(cells):016x}"
                write_run(run, random, k / depth, PARTS.index(part), name, photo)
                labels = {"k": str(k), "part": part, "image": name}
                cells.append({"labels": labels, "probe": "invert", "run": f"../store/{run.name}",
                              "status": "done", "error": None, "why": None})  # fmt: skip
    study = folder / "study"
    study.mkdir(parents=True, exist_ok=True)
    findings = [
        {"claim": "every block is about as good as any other", "verdict": "refuted", "value": 18.2,
         "threshold": 6.0, "sentence": "PSNR falls by 18.2 dB from the first block to the last."},
        {"claim": "norms are not to blame", "verdict": "confirmed", "value": 1.03,
         "threshold": 1.2, "sentence": "without norms the median ratio of errors is 1.03."},
    ]  # fmt: skip
    text = {
        "title": f"{count} synthetic runs", "question": "Does the page stay quick?",
        "experiment": "0", "tier": "packaged", "stand_in": "noise stands in for reconstructions",
        "axes": {"k": [str(k) for k in range(depth)], "part": list(PARTS), "image": list(photos)},
        "cells": cells, "findings": findings,
        "curves": [{"figure": "psnr", "along": "k", "lines": "part", "log": False},
                   {"figure": "embedding_relative", "along": "k", "lines": "part", "log": True}],
    }  # fmt: skip
    (study / "study.json").write_text(json.dumps(text))
    return study


def write_run(folder, random, depth, part, name, photo) -> None:
    """One run's folder: a photo that comes back the worse, the deeper the block."""
    folder.mkdir(parents=True, exist_ok=True)
    level = 0.02 + 0.25 * depth + 0.04 * part + 0.03 * random.random()

    def noisy(amount):
        image = photo + amount * random.standard_normal(photo.shape)
        return np.ascontiguousarray(image.clip(0, 1).transpose(2, 0, 1)[None], np.float32)

    site = f"blocks[{int(depth * 12)}]"
    found = noisy(level)
    tensors = {
        f"target/{name}": noisy(0.0), "start/seed 0": noisy(0.0) * 0 + random.random(),
        f"image/{site}": found,
        **{f"snapshot/{site}/{step}": noisy(level + 1 / step) for step in STEPS},
    }  # fmt: skip
    save_file(tensors, folder / "result.safetensors")
    error = float(np.mean((found - tensors[f"target/{name}"]) ** 2))
    figures = {"psnr": -10 * np.log10(error), "ssim": 1 - level, "embedding_relative": level**3,
               "yardstick_ratio": level * 3, "gradient_evaluations": 300,
               "stopped": "budget spent", "method": "lbfgs"}  # fmt: skip
    record = {
        "probe": "invert", "model": "torchvision/vit_b_32", "seed": 0, "operations": [],
        "images": {name: {"sha256": "0" * 64}}, "device": "cpu", "dtype": "float32",
        "versions": {"surgeon": "0"}, "figures": {site: figures}, "tables": {},
        "notes": [f"{site}: lbfgs, as asked"],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "recipe.toml").write_text(
        'schema = 1\n\n[model]\nname = "torchvision/vit_b_32"\n\n[[operations]]\nop = "only"\n'
        f'site = "{site}"\n\n[probes.invert]\nsteps = 300\n'
    )
    lines = [
        {"task": site, "gradient_evaluations": step, "loss": level + 5 / step,
         "embedding_distance": 3 * level + 20 / step, "psnr": 30 - 20 * level - 20 / step}
        for step in range(1, 300, 2)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def load_seconds(page: Path) -> float:
    """Seconds from asking for a page until it is drawn and can be used."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,900"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or ""
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(page.resolve().as_uri())
        ready = browser.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));"
        )
        assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
        return round(ready / 1000, 3)
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
