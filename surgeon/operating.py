"""operate: from a model and a recipe to a subject."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from surgeon.errors import PlanError
from surgeon.operations.base import Donors
from surgeon.planning import Plan
from surgeon.planning import plan as make_plan
from surgeon.preprocessing import Preprocessing
from surgeon.recipe import Recipe
from surgeon.subject import Subject
from surgeon.surgery.apply import apply_edits
from surgeon.surgery.edits import Edit, Stop


def operate(
    model: nn.Module,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing | None = None,
    input_size: tuple[int, int, int] | None = None,
    trainable: bool = False,
    donors: Donors | None = None,
    edits: Iterable[Edit] = (),
) -> Subject:
    """Carry a recipe out on a model.

    Args:
        model: the recipe's own (`recipe.load()`), or any of yours that takes images.
        preprocessing: what the subject applies to images; left out: that of the recipe's model,
            none for a model of your own.
        input_size: (channels, height, width), where neither model nor preprocessing says it.
        trainable: keep weights trainable and the training mode as it is.
        donors: where swapped tensors come from, instead of the recipe's donors.
        edits: further edits of your own, such as `Replace(site, function)`; a recipe can't hold
            a function.

    Returns:
        The subject, operated. Use it in a `with`, or call `remove()`: either way the model is then
        what it was (`surgeon.fingerprint`).

    Raises:
        RecipeError, SelectionError, PlanError, WeightsError: nothing stays applied.

    >>> from surgeon.testing import tiny_vit
    >>> from surgeon import Recipe, Truncate
    >>> import torch
    >>> with operate(tiny_vit(), Recipe() | Truncate("blocks[0]")) as subject:
    ...     subject(torch.rand(1, 3, 16, 16)).shape
    torch.Size([1, 5, 8])
    """
    if preprocessing is None and recipe.model is not None:
        from surgeon.sources import preprocessing_of

        preprocessing = preprocessing_of(recipe.model, model)
    if preprocessing is not None:
        input_size = input_size or preprocessing.input_size
    plan = make_plan(model, recipe, input_size=input_size, donors=donors, edits=edits)
    _refuse_several_outputs(plan)
    if preprocessing is None:
        channels, height, width = plan.anatomy.input_size
        preprocessing = Preprocessing((channels, height, width), origin="a model of your own")
    if not recipe.input.normalize:
        preprocessing = preprocessing.raw()
    handle = apply_edits(model, plan.edits, plan.program, trainable=trainable)
    return Subject(model, plan, handle, preprocessing)


def _refuse_several_outputs(plan: Plan) -> None:
    """A subject has one output: the stop's, or the model's if that is one tensor."""
    outputs = plan.anatomy.graph.calls[0].outputs
    if len(outputs) > 1 and not any(isinstance(edit, Stop) for edit in plan.edits):
        raise PlanError(
            f"operate on {plan.anatomy.model} as a whole",
            f"it returns {len(outputs)} tensors, and a subject has one output",
            'truncate at the site whose value you want, such as "head" or "blocks[-1]"',
        )
