"""Exporting an operated model as what changed, and loading it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.site import Site
from surgeon.errors import RecipeError, RunError, WeightsError
from surgeon.files import atomic_write, writing
from surgeon.operating import operate
from surgeon.planning import plan
from surgeon.recipe import Recipe
from surgeon.sources import load_model, meta_model
from surgeon.surgery.edits import SetTensor, TensorSource
from surgeon.weights import TensorStore, digest_of, open_weights, tensors_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from surgeon.subject import Subject


def export(recipe: Recipe, path: str | Path, *, overwrite: bool = False) -> dict[str, int]:
    """Write the tensors a recipe changes, with the base model and the recipe in the metadata.

    Args:
        path: a .safetensors file.
        overwrite: replace a file that is there.

    Returns:
        Number of tensors and bytes written.

    Raises:
        RecipeError: the recipe names no model.
        RunError: the file exists, or can't be written; nothing of it stays.
    """
    file = Path(path)
    if recipe.model is None:
        raise RecipeError(f"export to {path}", "the recipe names no model", "[model] name = ...")
    if file.suffix != ".safetensors":
        raise RunError(
            f"export to {path}", f'"{file.suffix}" files are not written', ".safetensors"
        )
    if file.exists() and not overwrite:
        raise RunError(f"export to {path}", "the file exists", "--overwrite, or another name")
    planned = plan(meta_model(recipe.model), recipe)
    edits = {e.path: e for e in planned.edits if isinstance(e, SetTensor)}
    tensors = {name: edit.tensor.load().contiguous().clone() for name, edit in edits.items()}
    base = load_model(recipe.model)
    about = {
        "recipe": recipe.to_toml(),
        "base_model": recipe.model.label,
        "base_digest": _digest(base),
    }
    # One entry: safetensors writes several in any order, and equal exports are to be equal bytes.
    _write(file, save(tensors, metadata={"surgeon": json.dumps(about, sort_keys=True)}))
    return {"tensors": len(tensors), "bytes": file.stat().st_size}


def load(path: str | Path, *, device: str | torch.device | None = None) -> Subject:
    """The operated model of an exported file, bit for bit: its base model, operated again.

    Args:
        path: a file that `export` wrote.

    Returns:
        The subject; its `model` is operated until `remove()`.

    Raises:
        WeightsError: no such export, or the base model built here is not the one it was made with.
    """
    from safetensors import safe_open

    store = open_weights(path)
    with safe_open(Path(path), framework="pt") as handle:
        about = json.loads((handle.metadata() or {}).get("surgeon", "{}"))
    if "recipe" not in about:
        raise WeightsError(f"load {path}", "it holds no recipe", "a file written by surgeon export")
    recipe = Recipe.from_toml(about["recipe"], source=str(path))
    model = recipe.load()
    if about.get("base_digest") != _digest(model):
        raise WeightsError(
            f"load {path}",
            f"{about.get('base_model')} built here has other values than where it was exported",
            "the same torch, timm and torchvision, or base weights from a file",
        )
    return operate(model.to(device or "cpu"), recipe, donors=_Exported(store, model))


class _Exported:
    """Donors whose tensors were exported: under the model's own names.

    Those beyond the recipe's stop were not: they have a shape here, and are never read.
    """

    def __init__(self, store: TensorStore, model: nn.Module) -> None:
        self.store = store
        self.shapes = {name: tuple(t.shape) for name, t in tensors_of(model).items()}

    def source(self, name: str) -> TensorSource:
        if name in self.store.shapes:
            return self.store.source(name)
        return TensorSource(self.shapes[name], lambda: self.store.read(name), self.store.origin)

    def tensors(self, donor: str, site: Site, anatomy: Anatomy) -> dict[str, TensorSource]:
        return {name: self.source(name) for name in anatomy.parameters_of(site)}

    def initial(self, seed: int, names: list[str]) -> dict[str, TensorSource]:
        return {name: self.source(name) for name in names}


def _digest(model: nn.Module) -> str:
    tensors: dict[str, Tensor] = dict(model.state_dict())
    return digest_of(tensors)


def _write(file: Path, content: bytes) -> None:
    with writing(f"export to {file}", "a folder with room to write"):
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(file, content)
