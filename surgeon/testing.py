"""For tests, yours too: tiny models, proof of restoration, and the suite every plugin must pass."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from surgeon.fingerprints import fingerprint

if TYPE_CHECKING:
    from surgeon.anatomist.anatomy import Anatomy
    from surgeon.probe import Inputs, Result
    from surgeon.recipe import Recipe
    from surgeon.subject import Subject


class TinyAttention(nn.Module):
    """Single-head attention: (batch, tokens, width) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        weights = (query @ key.transpose(-2, -1) * x.shape[-1] ** -0.5).softmax(dim=-1)
        out: Tensor = self.proj(weights @ value)
        return out


class TinyBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = TinyAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class TinyViT(nn.Module):
    """A vision transformer small enough to differentiate densely."""

    def __init__(self, width: int = 8, depth: int = 2, patch: int = 8, side: int = 16) -> None:
        super().__init__()
        tokens = (side // patch) ** 2
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens + 1, width) * 0.02)
        self.blocks = nn.Sequential(*[TinyBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], dim=1)
        tokens = self.blocks(tokens + self.pos_embed)
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


def tiny_vit(seed: int = 0, **options: int) -> TinyViT:
    """A TinyViT in evaluation mode, the same for the same seed.

    Args:
        options: width, depth, patch and side (of the image, in pixels).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyViT(**options)
    return model.eval()


def tiny_vit_anatomy() -> Anatomy:
    """The anatomy of `tiny_vit()`."""
    from surgeon.anatomist.look import look

    return look(tiny_vit(), (3, 16, 16))


@contextmanager
def assert_restores(model: nn.Module, *, full: bool = True) -> Iterator[None]:
    """Assert that a model leaves the context as it came, whatever happens inside.

    Raises:
        AssertionError: it did not; what changed is listed.
    """
    before = fingerprint(model, full=full)
    try:
        yield
    finally:
        changed = before.difference(fingerprint(model, full=full))
        assert not changed, "not restored: " + "; ".join(changed)


def assert_recipe_restores(
    model: nn.Module, recipe: Recipe, images: Tensor, during: Callable[[Tensor], None] | None = None
) -> Tensor:
    """Operate, run, undo; assert that the model is as before and answers as before.

    Args:
        images: (batch, channels, height, width).
        during: called with the operated output.

    Returns:
        The operated output.
    """
    from surgeon.operating import operate

    size = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    with torch.no_grad():
        expected = model(images)
        with assert_restores(model), operate(model, recipe, input_size=size) as subject:
            out = subject.raw(images)
            if during is not None:
                during(out)
        assert torch.equal(model(images), expected), "the restored model answers otherwise"
    return out


# --- conformance: what every plugin must pass, yours too

_LIGHT = "import sys, importlib; importlib.import_module({!r}); sys.exit('torch' in sys.modules)"


def assert_operation_conforms(
    name: str, *, model: str = "surgeon/vit_fashion", **arguments: Any
) -> None:
    """Assert that a registered operation behaves as every operation must.

    It describes itself; listing it imports no torch; it is data that goes through TOML and back;
    it accepts a batch of one, gives the same twice, and the model comes back as it was.

    Args:
        model: to operate on, "source/architecture" of images that `model` says the size of.
        arguments: of the operation; site "blocks[1]" and a donor are filled in where left out.

    Raises:
        AssertionError: what it does not do.
    """
    from surgeon.recipe import ModelSpec, Recipe
    from surgeon.recipe_file import recipe_schema
    from surgeon.registry import registry
    from surgeon.sources import preprocessing_of

    entry = registry().find("operation", name)
    assert entry.summary, f"{name} has no summary"
    _assert_light(entry.target)
    cls = entry.load()
    known = {f.name for f in fields(cls)}
    given = {"site": "blocks[1]", **({"donor": "donor"} if "donor" in known else {}), **arguments}
    operation = cls(**given)
    assert operation.op == name, f'its `op` is "{operation.op}", and it is registered as "{name}"'
    assert operation == cls(**given), "two of the same arguments differ: it is no plain data"
    assert name in recipe_schema()["$defs"], f"surgeon schema leaves {name} out"
    recipe = Recipe(model, donors={"donor": ModelSpec(model, seed=1)}) | operation
    assert Recipe.from_toml(recipe.to_toml()) == recipe, "it is another after TOML and back"
    built = recipe.load()
    assert recipe.model is not None
    size = preprocessing_of(recipe.model, built).input_size
    images = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    first = assert_recipe_restores(built, recipe, images)
    torch.rand(3)  # another place in the user's random stream
    assert torch.equal(first, assert_recipe_restores(built, recipe, images)), (
        "it differs when told twice"
    )


def assert_probe_conforms(
    name: str,
    *,
    model: nn.Module | None = None,
    recipe: Recipe | None = None,
    images: Tensor | None = None,
    **settings: Any,
) -> None:
    """Assert that a registered probe behaves as every probe must.

    It describes itself; its settings import no torch; it accepts a batch of one, leaves the model
    as it was, gives the same twice; if it is resumable, every state goes through a checkpoint and
    on to the same result, and no step changes the state it is given.

    Args:
        model: to look at; `tiny_vit()` if left out.
        recipe: operations on it; a dropped residual if left out.
        images: (1, channels, height, width) in [0, 1].
        settings: of the probe; a setting called `steps` is 4 where left out.

    Raises:
        AssertionError: what it does not do.
    """
    from surgeon.imaging.photos import photo_of
    from surgeon.operating import operate
    from surgeon.operations.drop_residual import DropResidual
    from surgeon.probe import Inputs
    from surgeon.recipe import Recipe
    from surgeon.recipe_file import checked_settings, settings_class
    from surgeon.registry import registry

    entry = registry().find("probe", name)
    assert entry.summary, f"{name} has no summary"
    if "settings" in entry.extra:
        _assert_light(entry.extra["settings"])
    cls = settings_class(name)
    assert cls.model_json_schema()["type"] == "object"
    assert cls.model_config.get("extra") == "forbid", "unknown settings are not refused"
    if "steps" in cls.model_fields:
        settings = {"steps": 4, **settings}
    checked = checked_settings(name, settings)
    probe = entry.load()
    recipe = recipe or Recipe() | DropResidual("blocks[0].residual2")
    if images is None:
        images = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    inputs = Inputs((photo_of(images),), recipe)
    model = model or tiny_vit()
    size = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    with assert_restores(model), operate(model, recipe, input_size=size) as subject:
        first = _run(probe, subject, inputs, checked)
        torch.rand(3)  # another place in the user's random stream
        _assert_same(first, _run(probe, subject, inputs, checked), "it differs when run twice")
        if getattr(probe, "resumable", True):
            again = _run(probe, subject, inputs, checked, through_checkpoints=True)
            _assert_same(first, again, "it differs when each state goes through a checkpoint")


def _assert_light(target: str) -> None:
    module = target.partition(":")[0]
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT.format(module)],
        check=False, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, f"{module} imports torch, or can't be imported: {done.stderr}"


def _run(
    probe: Any,
    subject: Subject,
    inputs: Inputs,
    settings: Any,
    *,
    through_checkpoints: bool = False,
) -> Result:
    """A probe's state machine to its end; by another object from a file after every step."""
    from surgeon.runs.checkpoints import Checkpointer, read_checkpoint

    driver = probe()
    state, log, done = driver.start(subject, inputs, settings), [], False
    with tempfile.TemporaryDirectory() as folder:
        while not done:
            before = _bytes_of(state)
            step = driver.step(subject, inputs, settings, state)
            assert not through_checkpoints or _bytes_of(state) == before, "a step changed its state"
            state, done = step.state, step.done
            log += [dict(step.log)] if step.log is not None else []
            if through_checkpoints:
                Checkpointer(Path(folder), {}).write(state, log)
                saved = read_checkpoint(Path(folder))
                driver, state, log = probe(), saved.state, saved.log
    result: Result = driver.finish(subject, inputs, settings, state)
    result.log = log
    return result


def _bytes_of(value: Any) -> Any:
    """Something to compare a state or a result by: NaN equals NaN, tensors by their bytes."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        return str(value.dtype), tuple(value.shape), flat.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _bytes_of(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_bytes_of(item) for item in value]
    return repr(value)


def _assert_same(first: Result, again: Result, complaint: str) -> None:
    for part in ("figures", "images", "tensors", "curves", "tables", "notes", "log"):
        same = _bytes_of(getattr(first, part)) == _bytes_of(getattr(again, part))
        assert same, f"{complaint}: {part}"


def assert_study_conforms(name: str) -> None:
    """Assert that a registered study can run: its file, cells, models, images and checks.

    Raises:
        AssertionError, SurgeonError: what is wrong.
    """
    from surgeon.registry import registry
    from surgeon.studies.conformance import check_study

    assert registry().find("study", name).summary, f"{name} has no summary"
    check_study(f"surgeon:{name}")
