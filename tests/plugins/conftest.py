"""Fixtures of the plugins' tests."""

from __future__ import annotations

import pytest

import surgeon
from surgeon import Preprocessing, Recipe


@pytest.fixture(scope="module")
def convolutions():
    """A convolutional model of photos of 128 pixels."""
    recipe = Recipe("timm/resnet10t", seed=0)
    photos = Preprocessing((3, 128, 128), (0.5,) * 3, (0.25,) * 3)
    with surgeon.operate(recipe.load(), recipe, preprocessing=photos) as found:
        yield found
