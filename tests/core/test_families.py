"""One small architecture of every family of both libraries, on real tensors, against oracles.

`families.check` says what is compared. The most used timm families and all of torchvision's run
with the quick tests, the other families are marked slow.
"""

from __future__ import annotations

import pytest
import torch
from families import check
from family_models import TIMM, TORCHVISION, USED
from torch import nn

import surgeon
from surgeon.testing import tiny_vit

#: Where autograd's graph shows residual adds otherwise: family -> (how many fewer, why).
UNSEEN = {
    "timm/cait": (
        1,
        "the first class-attention block adds to the class token, which no image made",
    ),
    "timm/ghostnet": (16, "x += on a slice: autograd writes CopySlices, and no add"),
    "timm/sequencer": (-296, "autograd shows the adds within each step of an LSTM, one function"),
}

CASES = [
    pytest.param(
        f"{library}/{family}",
        id=f"{library}-{family}",
        marks=[pytest.mark.slow] if library == "timm" and family not in USED else [],
    )
    for library, table in (("torchvision", TORCHVISION), ("timm", TIMM))
    for family in table
]


@pytest.mark.parametrize("case", CASES)
def test_operations_against_oracles(case):
    library, _, family = case.partition("/")
    name, options, side = (TIMM if library == "timm" else TORCHVISION)[family]
    found = check(library, name, options, (3, side, side))
    assert found["blocks"] > 1
    fewer, _ = UNSEEN.get(case, (0, ""))
    assert found["by autograd"] == found["residuals"] - fewer


def test_every_family_is_there():
    import timm
    import torchvision

    from surgeon_models.torchvision_source import TorchvisionSource

    files = {timm.models._registry._model_to_module[name] for name in timm.list_models()}
    assert files == set(TIMM)
    assert set(USED) <= files
    source = TorchvisionSource()
    told = [source.family(name) for name in torchvision.models.list_models()]
    assert {family for family, task in told if task == "classification"} == set(TORCHVISION)


# --- the oracles can fail


class Sums(nn.Module):
    """What is a residual, and what only looks like one."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        kinds = {
            "plain": lambda: x + self.a(x).relu(),
            "in place": lambda: self.a(x).relu().add_(x),
            "projected": lambda: self.norm(self.a(x)) + self.b(self.a(x).relu()),
            "parallel": lambda: self.a(x) + self.b(x),
            "normed": lambda: self.norm(x) + self.a(x),
            "gated": lambda: x * x.mean((2, 3), keepdim=True) + self.a(x),
            "two": lambda: (y := x + self.a(x)) + self.b(y),
            "none": lambda: self.a(x),
        }
        return kinds[self.kind]()


@pytest.mark.parametrize(
    ("kind", "count"),
    [("plain", 1), ("in place", 1), ("parallel", 0), ("normed", 0), ("gated", 0), ("two", 2),
     ("none", 0)],
)  # fmt: skip
def test_the_count_by_autograd(kind, count):
    from families import Cut, residual_nodes

    module = Sums(kind).eval().requires_grad_(False)
    x = torch.rand(1, 4, 8, 8, requires_grad=True)
    cut = Cut(module, 0)
    cut.on()
    module(x * 1)
    cut.off()
    assert len(list(residual_nodes(cut.ends, cut.starts))) == count


def test_a_wrong_truncation_would_be_seen(monkeypatch):
    import families

    model = tiny_vit().double()
    anatomy = surgeon.anatomy(model, (3, 16, 16))
    x = families.images((3, 16, 16))
    families.check_truncation(model, anatomy, x)
    monkeypatch.setattr(families, "at", lambda anatomy, index: ("blocks.0.norm1", 0))
    with pytest.raises(AssertionError, match="truncated at"):
        families.check_truncation(model, anatomy, x)


def test_a_branch_that_is_not_the_output_minus_the_skip_would_be_seen(monkeypatch):
    import families

    model = tiny_vit().double()
    anatomy = surgeon.anatomy(model, (3, 16, 16))
    x = families.images((3, 16, 16))
    assert families.check_residuals(model, anatomy, x) == 4
    plain = families.operated
    monkeypatch.setattr(
        families,
        "operated",
        lambda m, a, x, *ops: plain(m, a, x, *ops) * (1 + 1e-9 * (len(ops) == 2)),
    )
    with pytest.raises(AssertionError):
        families.check_residuals(model, anatomy, x)
