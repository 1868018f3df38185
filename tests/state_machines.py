"""Driving a probe's states by hand."""

from __future__ import annotations

import torch


def run_to_end(kind, subject, inputs, settings, *, fresh=False):
    """A probe's result, step after step; no step may change the state it was given.

    Args:
        kind: the probe's class.
        fresh: each step by another instance, so that the state must be enough to go on from.
    """
    probe = kind()
    state, done = probe.start(subject, inputs, settings), False
    while not done:
        kept = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
        step = (kind() if fresh else probe).step(subject, inputs, settings, state)
        assert state.keys() == kept.keys()
        assert all(
            torch.equal(state[k], v) if isinstance(v, torch.Tensor) else state[k] == v
            for k, v in kept.items()
        )
        state, done = step.state, step.done
    return probe.finish(subject, inputs, settings, state)
