"""Reading: one norm swapped from a 1.2 GB donor, an anatomy without weights, `surgeon --help`.

    python benchmarks/reading.py

The donor (an untrained ViT-L/16 as safetensors) is written to a temporary folder first. Bytes read
are the process's own, as Linux counts them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.torch import save_file

import surgeon
from surgeon import ModelSpec, Recipe, Swap
from surgeon.sources import load_model, meta_model


def bytes_read():
    """By read calls of this process, the page cache included; None where the system doesn't say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return None
    return int(lines[0].split()[1])


def faults():
    """Pages mapped in, times their size: what a memory map really touched."""
    import resource

    usage = resource.getrusage(resource.RUSAGE_SELF)
    return (usage.ru_minflt + usage.ru_majflt) * resource.getpagesize()


def swap(folder):
    donor = Path(folder) / "donor.safetensors"
    save_file(load_model(ModelSpec("torchvision/vit_l_16", seed=1)).state_dict(), donor)
    recipe = Recipe(
        "torchvision/vit_l_16", donors={"d": ModelSpec("torchvision/vit_l_16", str(donor))}
    ) | Swap("blocks[3].norm1", donor="d")
    model = recipe.load()
    anatomy = surgeon.anatomy(model)
    read, touched, began = bytes_read(), faults(), time.perf_counter()
    plan = surgeon.plan(model, recipe, anatomy=anatomy)
    handle = plan.apply(model)
    seconds = time.perf_counter() - began
    print(f"donor of {donor.stat().st_size / 1e9:.2f} GB, one norm swapped in {seconds:.3f} s")
    if read is not None:
        print(f"  read by calls: {(bytes_read() - read) / 1e6:.3f} MB")
    print(f"  memory touched meanwhile, at most: {(faults() - touched) / 1e6:.2f} MB")
    handle.remove()


def main():
    with tempfile.TemporaryDirectory() as folder:
        swap(folder)
    model = meta_model(ModelSpec("torchvision/vit_b_32"))
    began = time.perf_counter()
    surgeon.anatomy(model)
    print(f"anatomy of ViT-B/32 without weights: {time.perf_counter() - began:.3f} s")
    command = [sys.executable, "-c", "from surgeon_cli.app import main; main(['--help'])"]
    runs = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        runs.append(time.perf_counter() - began)
    print(f"surgeon --help: {min(runs):.3f} to {max(runs):.3f} s")


if __name__ == "__main__":
    main()
