"""Draw the pictures of docs/post.md from the folders of the post's studies.

python tools/post_pictures.py runs/post
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

from surgeon.runs.pictures import Panel, Sheet, draw_sheet
from surgeon.studies import Study
from surgeon.studies.table import Table, table_of

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"


def runs(folder: Path, number: str) -> list[tuple[dict[str, str], str, Path]]:
    """(labels, probe, run's folder) of the cells of a study that are done."""
    here = folder / number
    cells = json.loads((here / "study.json").read_text())["cells"]
    return [(c["labels"], c["probe"], here / c["run"]) for c in cells if c["status"] == "done"]


def table(folder: Path, number: str) -> Table:
    """The table of a study that has run."""
    axes = {
        axis: list(values) for axis, values in Study.read(f"surgeon:post/{number}").axes.items()
    }
    return table_of(runs(folder, number), axes)


def panels(rows: Table, title: str) -> list[Panel]:
    """A panel for each row: the reconstruction with its figures."""
    made = []
    for row in rows:
        caption = (
            f"PSNR {row.figures['psnr']:.1f} dB\noutput {row.figures['embedding_relative']:.1e}"
        )
        name = ", ".join(row.label(axis) for axis in title.split("+"))
        made.append(Panel(row.tensors()[f"image/{row.site}"], name, caption))
    return made


def target(rows: Table) -> Panel:
    tensors = rows.rows[0].tensors()
    return Panel(next(t for n, t in tensors.items() if n.startswith("target/")), "photo")


def save(sheet: Sheet, name: str) -> None:
    """As a PNG of 128 colours: these are grey pictures with a little ink."""
    path = IMAGES / name
    draw_sheet(sheet).savefig(path)
    Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)


def main() -> None:
    folder = Path(sys.argv[1])
    four = table(folder, "4").where(image="surgeon:boot")
    rows = []
    for case in four.labels("case"):
        chosen = four.where(case=case)
        rows.append([Panel(target(chosen).image, case), *panels(chosen, "site")])
    save(Sheet("Experiment 4: depth, untrained", rows, cell=1.5), "post_depth.png")
    nineteen = table(folder, "19")
    rows = []
    for how in nineteen.labels("how"):
        chosen = nineteen.where(how=how)
        rows.append([Panel(target(chosen).image, how), *panels(chosen, "part")])
    save(Sheet("Experiment 19: the last block of a trained ViT", rows), "post_dissection.png")
    sixteen = table(folder, "16").where(probe="invert", how="L-BFGS", blocks="blocks[3]")
    rows = []
    for weights in sixteen.labels("weights"):
        chosen = sixteen.where(weights=weights)
        rows.append([Panel(target(chosen).image, weights), *panels(chosen, "part")])
    title = "Experiment 16: block 3 without residuals, L-BFGS"
    save(Sheet(title, rows), "post_no_residuals.png")
    (_, _, run), *_ = runs(folder, "22")
    picture = Image.open(run / "anatomy.png").convert("RGB").quantize(64)
    picture.save(IMAGES / "post_anatomy.png", optimize=True)


if __name__ == "__main__":
    main()
