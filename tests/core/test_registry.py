"""Plugins: provenance, collisions, isolation."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

import surgeon
from surgeon.errors import PluginError, ProbeError
from surgeon.registry import Registry


class Sharpness:
    @staticmethod
    @surgeon.hookimpl
    def register_probes(register):
        register("sharpness", "nowhere.at_all:Probe", summary="how sharp?")


class Misspelt:
    @staticmethod
    @surgeon.hookimpl
    def register_probs(register):
        register("x", "y:z")


@pytest.fixture
def registry():
    return Registry()


def test_built_ins_are_plugins(registry):
    assert set(registry.entries["operation"]) == {
        "ablate", "bypass", "drop_residual", "only", "reinit", "swap", "truncate",
    }  # fmt: skip
    assert registry.find("probe", "invert").distribution.startswith("model-surgeon")
    assert not registry.broken


def test_every_target_loads(registry):
    for kind in ("source", "operation", "probe", "adapter", "command"):
        for entry in registry.all(kind):
            assert entry.load() is not None
            for key in entry.extra:
                assert entry.load(key) is not None


def test_who_registered_what(registry):
    registry.register("mine", Sharpness, "my-package 1.2")
    entry = registry.find("probe", "sharpness")
    assert (entry.plugin, entry.distribution) == ("mine", "my-package 1.2")
    registry.unregister("mine")
    assert "sharpness" not in registry.entries["probe"]


def test_two_of_one_name_is_an_error_naming_both(registry):
    registry.register("first", Sharpness(), "a 1")
    with pytest.raises(PluginError) as error:
        registry.register("second", Sharpness(), "b 2")
    assert "first (a 1)" in str(error.value)
    assert "second (b 2)" in str(error.value)
    assert registry.find("probe", "sharpness").plugin == "first"
    assert "second" not in registry.plugins


def test_a_misspelt_spec_is_an_error(registry):
    with pytest.raises(PluginError, match="register_probs"):
        registry.register("mine", Misspelt(), "a 1")


def test_a_broken_plugin_costs_only_itself():
    points = [
        EntryPoint("broken", "no.such.module", "surgeon"),
        EntryPoint("invert", "surgeon_invert", "surgeon"),
    ]
    registry = Registry(points)
    assert registry.find("probe", "invert")
    assert isinstance(registry.broken["broken"], ModuleNotFoundError)
    with pytest.raises(ProbeError, match="broken") as error:
        registry.find("probe", "what", ProbeError)
    assert error.value.__cause__ is registry.broken["broken"]


def test_a_target_that_fails_to_import_is_raised_when_needed(registry):
    registry.register("mine", Sharpness(), "my-package 1.2")
    with pytest.raises(PluginError, match=r"my-package 1\.2") as error:
        registry.find("probe", "sharpness").load()
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


def test_what_was_not_registered_names_the_plugin(registry):
    registry.register("mine", Sharpness(), "my-package 1.2")
    with pytest.raises(PluginError, match=r"my-package 1\.2.*registered none"):
        registry.find("probe", "sharpness").load("settings")


def test_a_miss_names_the_nearest(registry):
    with pytest.raises(PluginError, match="invert"):
        registry.find("probe", "invrt")
