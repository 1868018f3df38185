"""Write the table of docs/post.md from the folders of the post's studies.

surgeon study surgeon:post --tier packaged --out runs/post
surgeon study surgeon:post --tier named --out runs/post
python tools/write_post.py runs/post

A tier that has no folder there keeps its table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "post.md"
BEGIN, END = "<!-- results -->\n", "<!-- end of results -->\n"


def rows_of(folder: Path, tier: str) -> list[str]:
    """A row for each finding of each experiment of a tier that has run."""
    rows = []
    for number in range(1, 28):
        path = folder / f"{number}{tier}" / "study.json"
        if not path.exists():
            continue
        study = json.loads(path.read_text())
        done = sum(cell["status"] == "done" for cell in study["cells"])
        asked = sum(cell["status"] != "skipped" for cell in study["cells"])
        for i, finding in enumerate(study["findings"]):
            first = f"{number} {study['title']}" if i == 0 else ""
            count = f"{done}" if done == asked else f"{done} of {asked}"
            took = f", {_time(path.parent, study)}" if done else ""
            cells = f"{count}{took}" if i == 0 else ""
            sentence = finding["sentence"].replace("|", "\\|")
            verdict = f"**{finding['verdict']}**"
            rows.append(f"| {first} | {cells} | {finding['claim']} | {verdict} | {sentence} |")
    return rows


def _time(folder: Path, study: dict) -> str:
    """What the runs of a study took, one after another, whichever study made them."""
    runs = {cell["run"] for cell in study["cells"] if cell["run"] and cell["status"] == "done"}
    seconds = sum(json.loads((folder / run / "timing.json").read_text())["seconds"] for run in runs)
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def table(folder: Path, before: str) -> str:
    """Both tiers' tables; that of a tier that has not run stays what it was."""
    head = "| experiment | cells, time | claim | verdict | what was measured |\n"
    head += "|---|---|---|---|---|\n"
    parts = []
    for tier, title in (("", "Packaged tier"), ("-named", "Named tier, without a network")):
        rows = rows_of(folder, tier)
        if rows:
            parts.append(f"### {title}\n\n{head}" + "\n".join(rows) + "\n")
        elif f"### {title}\n" in before:
            kept, *_ = before.partition(f"### {title}\n")[2].partition("### ")
            kept = kept.strip("\n")
            parts.append(f"### {title}\n\n{kept}\n")
    return "\n".join(parts)


def main() -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(Path(sys.argv[1]), old)}\n{END}{after}")


if __name__ == "__main__":
    main()
