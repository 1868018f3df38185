"""Publish a sweep: its page into the docs, its JSON into the package.

surgeon compat --out compat
python tools/publish_compatibility.py compat
"""

from __future__ import annotations

import sys
from pathlib import Path

from surgeon.compat.known import packed
from surgeon.compat.page import write
from surgeon.compat.store import Findings

ROOT = Path(__file__).resolve().parent.parent


def main(folder: str = "compat") -> None:
    store = Findings(Path(folder) / "findings.jsonl")
    found = [store.by_name[name] for name in sorted(store.by_name)]
    write(found, store.versions, ROOT / "docs" / "reference" / "compatibility.md")
    known = ROOT / "surgeon" / "compat" / "known.json"
    known.write_text(packed(found, store.versions), encoding="utf-8")
    print(f"{len(found)} architectures published")


if __name__ == "__main__":
    main(*sys.argv[1:])
