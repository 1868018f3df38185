"""Write the table of docs/post.md from the folders of the post's studies.

surgeon study surgeon:post --tier packaged --out runs/post
surgeon study surgeon:post --tier named --out runs/post
python tools/write_post.py runs/post
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
            cells = (f"{done}" if done == asked else f"{done} of {asked}") if i == 0 else ""
            sentence = finding["sentence"].replace("|", "\\|")
            verdict = f"**{finding['verdict']}**"
            rows.append(f"| {first} | {cells} | {finding['claim']} | {verdict} | {sentence} |")
    return rows


def table(folder: Path) -> str:
    """Both tiers' tables."""
    head = "| experiment | cells | claim | verdict | what was measured |\n|---|---|---|---|---|\n"
    parts = []
    for tier, title in (("", "Packaged tier"), ("-named", "Named tier, without a network")):
        rows = rows_of(folder, tier)
        if rows:
            parts.append(f"### {title}\n\n{head}" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def main() -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(Path(sys.argv[1]))}\n{END}{after}")


if __name__ == "__main__":
    main()
