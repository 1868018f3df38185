"""Everything registered passes the suite third parties run; a new built-in is in it by itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel, ConfigDict

import surgeon
from surgeon.probe import Result, Step
from surgeon.registry import registry
from surgeon.testing import (
    assert_operation_conforms,
    assert_probe_conforms,
    assert_study_conforms,
)

#: What a probe must be told to be quick or to have any work, by name.
SETTINGS: dict[str, dict[str, object]] = {
    "generate": {"classes": [0, 3]},
    "evaluate": {"limit": 30, "batch": 10},
    "dream": {"octaves": 2, "size": 24},
    "filters": {"null_filters": 16},
    "permutation": {"sites": "blocks[1]", "arrangements": 8, "held_out": 2},
}


@pytest.mark.parametrize("name", registry().entries["operation"])
def test_operations(name):
    assert_operation_conforms(name)


@pytest.mark.parametrize("name", registry().entries["probe"])
def test_probes(name):
    assert_probe_conforms(name, **SETTINGS.get(name, {}))


@pytest.mark.parametrize("name", registry().entries["study"])
def test_studies(name):
    assert_study_conforms(name)


WRONG_STUDIES = {
    "truncat": ('op = "truncate"', 'op = "truncat"'),
    "vit_fashio": ("surgeon/vit_fashion", "surgeon/vit_fashio"),
    "rockt": ("surgeon:rocket", "surgeon:rockt"),
    "none:check": ('check = "above"', 'check = "none:check"'),
    "has no summary": ("", ""),
}


@pytest.mark.parametrize("complaint", WRONG_STUDIES)
def test_a_study_with_something_wrong_is_found(complaint, tmp_path):
    old, new = WRONG_STUDIES[complaint]
    text = Path(registry().entries["study"]["depth"].target).read_text()
    (tmp_path / "wrong.toml").write_text(text.replace(old, new) if old else text)

    class Plugin:
        @staticmethod
        @surgeon.hookimpl
        def register_studies(register):
            summary = "x" if old else ""
            register("wrong", str(tmp_path / "wrong.toml"), summary=summary)

    registry().register("mine", Plugin(), "tests 1")
    try:
        with pytest.raises((AssertionError, surgeon.SurgeonError), match=complaint):
            assert_study_conforms("wrong")
    finally:
        registry().unregister("mine")


@pytest.mark.parametrize("method", ["adam", "descent"])
def test_inverts_other_methods(method):
    assert_probe_conforms("invert", method=method, sites=["stem", "blocks[1]"])


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Sound:
    """A resumable probe with nothing wrong."""

    Settings = Settings

    def start(self, subject, inputs, settings):
        return {"sum": torch.zeros(2), "step": 0}

    def step(self, subject, inputs, settings, state):
        following = {"sum": state["sum"] + 1, "step": state["step"] + 1}
        return Step(following, {"step": following["step"]}, done=following["step"] == 3)

    def finish(self, subject, inputs, settings, state):
        return Result(figures={"a": {"sum": float(state["sum"].sum())}})


class Mutating(Sound):
    def step(self, subject, inputs, settings, state):
        state["sum"] += 1
        return super().step(subject, inputs, settings, state)


class Random(Sound):
    def finish(self, subject, inputs, settings, state):
        return Result(figures={"a": {"random": float(torch.rand(()))}})


class Breaking(Sound):
    def finish(self, subject, inputs, settings, state):
        subject.model.head.weight.data.add_(1)
        return Result()


class Forgetful(Sound):
    """Keeps part of its state for itself."""

    def start(self, subject, inputs, settings):
        self.count = 0
        return super().start(subject, inputs, settings)

    def step(self, subject, inputs, settings, state):
        self.count = getattr(self, "count", 0) + 1
        return super().step(subject, inputs, settings, state)

    def finish(self, subject, inputs, settings, state):
        return Result(figures={"a": {"count": getattr(self, "count", 0)}})


WRONG = {
    "Mutating": "a step changed its state", "Random": "run twice", "Breaking": "not restored",
    "Forgetful": "through a checkpoint",
}  # fmt: skip


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.syspath_prepend(os.path.dirname(__file__))

    class Plugin:
        @staticmethod
        @surgeon.hookimpl
        def register_probes(register):
            for name in ("Sound", *WRONG):
                register(name, f"test_conformance:{name}", summary="a probe of the tests")
            register("heavy", "test_conformance:Sound", summary="x",
                     settings="test_conformance:Settings")  # fmt: skip

    registry().register("mine", Plugin(), "tests 1")
    yield
    registry().unregister("mine")


def test_the_suite_finds_what_is_wrong(registered):
    assert_probe_conforms("Sound")
    for name, complaint in WRONG.items():
        with pytest.raises(AssertionError, match=complaint):
            assert_probe_conforms(name)
    with pytest.raises(AssertionError, match="imports torch"):
        assert_probe_conforms("heavy")
