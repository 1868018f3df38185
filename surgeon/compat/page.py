from __future__ import annotations
from pathlib import Path
from typing import Any
def problem(f: dict[str, Any]) -> str:
    if f.get("error"): return f["error"]
    t=list(f["agreement"]["notes"])
    t+=[f"{k}: {v}" for k,v in f["operations"].items() if v]
    return "; ".join(t)
def write(found: list[dict[str, Any]], versions: dict[str, str], out: Path) -> None: ...
