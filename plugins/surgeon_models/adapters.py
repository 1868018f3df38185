"""Corrections of the general reading, one a model class; each is registered with its reason."""

from __future__ import annotations

from surgeon.anatomist.graph import Graph
from surgeon.anatomist.reading import Reading, read


def cpubone(graph: Graph, reading: Reading) -> Reading:
    """Its blocks are the items of its stages: attention and MLPs are lists within them."""
    return read(graph, r"stages\.\d+\.\d+")
