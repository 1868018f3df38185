"""Findings on disk, a line each: what was found before a kill is not looked for again."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

_LIBRARIES = ("torch", "torchvision", "timm", "model-surgeon")


class Findings:
    """A file of findings, appended to; the last finding of a name counts.

    Findings made under other versions of the libraries are left out, and so is a line that a kill
    cut short.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.versions = {name: version(name) for name in _LIBRARIES}
        self.by_name: dict[str, dict[str, Any]] = {}
        self._ends_clean = True
        if file.exists():
            text = file.read_text(encoding="utf-8", errors="replace")
            self._ends_clean = not text or text.endswith("\n")
            for line in text.splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            return
        if isinstance(found, dict) and found.pop("versions", None) == self.versions:
            self.by_name[found["name"]] = found

    def add(self, finding: dict[str, Any]) -> None:
        """Keep a finding; it is on disk when this returns."""
        self.by_name[finding["name"]] = finding
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as out:
            if not self._ends_clean:
                out.write("\n")
                self._ends_clean = True
            out.write(json.dumps({**finding, "versions": self.versions}) + "\n")
            out.flush()
            os.fsync(out.fileno())
