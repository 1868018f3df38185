"""Folders of runs and studies as a report reads them, written without running anything."""

from __future__ import annotations

import json

import numpy as np
from safetensors.numpy import save_file

#: Asks for a dialog in any place where a text would be taken for HTML or script.
EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"


def write_run(folder, figures, *, probe="invert", seed=0, images=("target", "start"), **record):
    """A run of 8-pixel images: one image for each site, beside what `images` names."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)

    def image():
        return random.random((1, 3, 8, 8), np.float32)

    names = {"target": "target/cat", "start": "start/seed 0", "photo": "photo/cat"}
    tensors = {names[kind]: image() for kind in images}
    if "target" in images:  # the same for every run
        tensors["target/cat"] = np.random.default_rng(99).random((1, 3, 8, 8), np.float32)
    tensors |= {f"image/{site}": image() for site in figures}
    tensors |= {f"snapshot/{site}/{step}": image() for site in figures for step in (1, 10)}
    save_file(tensors, folder / "result.safetensors")
    body = {
        "probe": probe, "model": "surgeon/any", "operations": ["only blocks[0]"],
        "images": {"cat": {"sha256": "00"}}, "figures": figures, "tables": {}, "notes": [],
        "versions": {"surgeon": "0"}, **record,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(body))
    (folder / "recipe.toml").write_text(f'schema = 1\n\n[model]\nname = "surgeon/{seed}"\n')
    rows = [
        {"task": site, "gradient_evaluations": step, "loss": 1 / step, "psnr": float(step)}
        for site in figures
        for step in range(1, 12)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_study(base, *, evil=False):
    """A study of 4 x 2 cells, of which one failed, one was left out, and a finding of each kind."""
    axes = {"k": ["0", "1", "2", "10"], "part": ["as it is", EVIL if evil else "no norms"]}
    cells = []
    for i, (k, part) in enumerate((k, part) for k in axes["k"] for part in axes["part"]):
        cell = {"labels": {"k": k, "part": part}, "probe": "invert", "run": None,
                "status": "done", "error": None, "why": None}  # fmt: skip
        if i == 3:
            cell |= {"status": "failed", "error": ["asked: a", "found: b", "try:   c"]}
        elif i == 5:
            cell |= {"status": "skipped", "why": "too deep to be of use"}
        else:
            figures = {"psnr": 40.0 - i, "embedding_relative": 10.0**-i, "stopped": "budget spent"}
            run = write_run(base / "store" / f"{i:02}", {f"blocks[{k}]": figures}, seed=i)
            cell["run"] = f"../store/{run.name}"
        cells.append(cell)
    verdicts = ("confirmed", "refuted", "undecided", "not applicable")
    findings = [
        {"claim": f"claim {i}" + EVIL * evil, "verdict": verdict, "value": 1.5 * i,
         "threshold": 2.0, "sentence": f"sentence {i} of n 8"}
        for i, verdict in enumerate(verdicts)
    ]  # fmt: skip
    study = {
        "title": "One encoder alone" + EVIL * evil, "question": "Is every block as good?",
        "experiment": "5", "tier": "packaged", "stand_in": "an untrained stem", "axes": axes,
        "cells": cells, "findings": findings,
        "curves": [{"figure": "psnr", "along": "k", "lines": "part", "log": False}],
    }  # fmt: skip
    folder = base / "study"
    folder.mkdir()
    (folder / "study.json").write_text(json.dumps(study))
    return folder
