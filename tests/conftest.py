"""Shared fixtures. No test reaches a network or writes outside its own folder."""

from __future__ import annotations

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

from surgeon.fingerprints import _globals
from surgeon.testing import tiny_vit

# A shell that puts the tests in the background has them ignore Ctrl-C; some send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("surgeon", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("surgeon")


@pytest.fixture(autouse=True)
def _torch_as_it_was(tmp_path, monkeypatch):
    """Each test starts in a folder of its own and leaves torch's flags and stacks as they were."""
    torch.set_num_threads(1)  # the tests run side by side
    monkeypatch.chdir(tmp_path)
    before = _globals()
    yield
    assert _globals() == before, "a test left torch's flags or mode stacks changed"


@pytest.fixture
def vit():
    """A ViT of two blocks, 16 x 16 pixels, five tokens of width 8."""
    return tiny_vit()


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
