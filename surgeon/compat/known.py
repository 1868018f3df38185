"""What the packaged sweep found, for `surgeon anatomy` to say. Reads JSON only."""
from __future__ import annotations
from typing import Any
def publish_to(found: list[dict[str, Any]], versions: dict[str, str]) -> None: ...
