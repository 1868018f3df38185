"""Random streams: each user of randomness has one of its own, named, from the seed."""

from __future__ import annotations

import hashlib

import torch


def stream(name: str, seed: int) -> torch.Generator:
    """A generator on the CPU that depends on the name and the seed alone.

    >>> float(torch.rand((), generator=stream("a", 0))) == float(
    ...     torch.rand((), generator=stream("a", 0)))
    True
    """
    digest = hashlib.sha256(f"{name}/{seed}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
