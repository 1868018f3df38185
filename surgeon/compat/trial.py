"""Operations tried on one model, without its values: each is planned, applied, run and undone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from surgeon.anatomist.anatomy import Anatomy
from surgeon.errors import SurgeonError
from surgeon.operating import operate
from surgeon.operations.ablate import Ablate
from surgeon.operations.base import Operation
from surgeon.operations.bypass import Bypass
from surgeon.operations.drop_residual import DropResidual
from surgeon.operations.only import Only
from surgeon.operations.truncate import Truncate
from surgeon.preprocessing import Preprocessing
from surgeon.recipe import Recipe

#: Where an operation tried by itself stops: what comes after the blocks may return several tensors.
_LAST = Truncate("blocks[-1]")


def trials(anatomy: Anatomy) -> list[dict[str, Operation]]:
    """Rounds of operations that run together, by name: each round is one forward.

    `truncate` is tried at the first, middle and last block, each other operation once.
    """
    count = len(anatomy.blocks)
    middle = count // 2
    held = [i for i in range(middle + 1) if anatomy.blocks[i].sublayers]
    ablated = f"blocks[{held[-1]}].sublayers[0]" if held else f"blocks[{middle}]"
    return [
        {"truncate": Truncate("blocks[0]")},
        {
            "ablate": Ablate(ablated),
            "bypass": Bypass(f"blocks[{middle // 2}]"),
            "truncate": Truncate(f"blocks[{middle}]"),
        },
        {"drop_residual": DropResidual("blocks[*]"), "truncate": Truncate("blocks[-1]")},
        {"only": Only(f"blocks[{middle}]")},
    ]


def try_operations(model: nn.Module, anatomy: Anatomy) -> dict[str, str]:
    """Run every operation; where a round fails, each of its operations by itself.

    Returns:
        Operation -> "" where it ran and gave the shape it said it would, else the reason.
    """
    if not anatomy.blocks:
        return dict.fromkeys(("truncate", "drop_residual", "bypass", "only", "ablate"), "no blocks")
    reasons: dict[str, str] = {}
    for operations in trials(anatomy):
        together = _try(model, anatomy, tuple(operations.values()))
        for name, operation in operations.items():
            alone = [operation] if name in ("truncate", "only") else [operation, _LAST]
            if together and len(operations) > 1:
                reasons[name] = reasons.get(name) or _try(model, anatomy, alone)
            else:
                reasons[name] = reasons.get(name) or together
    return reasons


def _try(model: nn.Module, anatomy: Anatomy, operations: Sequence[Operation]) -> str:
    device = next(model.parameters()).device
    size = anatomy.input_size
    images = torch.empty(1, *size, device=device) if device.type == "meta" else torch.rand(1, *size)
    try:
        recipe = Recipe(operations=tuple(operations))
        with torch.no_grad(), operate(
            model, recipe, preprocessing=Preprocessing((3, 1, 1)), input_size=size,  # type: ignore[arg-type]
        ) as subject:  # fmt: skip
            out = subject.raw(images)
            expected = subject.plan.output_shape
    except SurgeonError as error:
        return error.found
    except Exception as error:  # whatever the model's own forward does with what it is given
        return f"{type(error).__name__}: {error}"[:200]
    if tuple(out.shape) != tuple(expected):
        return f"its output is {tuple(out.shape)}, not {tuple(expected)}"
    return ""
