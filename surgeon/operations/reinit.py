"""reinit: the site goes back to its untrained initialisation."""

from __future__ import annotations

from typing import ClassVar

from pydantic import StrictInt
from pydantic.dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
from surgeon.operations.base import STRICT, Donors, SiteOperation
from surgeon.surgery.edits import Edit, SetTensor


@dataclass(frozen=True, config=STRICT)
class Reinit(SiteOperation):
    """Each site gets the values that the model's own constructor gives under a seed.

    Attributes:
        seed: of the initialisation, as `model.seed`.

    >>> Reinit("head", seed=1).seed
    1
    """

    op: ClassVar[str] = "reinit"
    seed: StrictInt = 0

    def resolve(self, anatomy: Anatomy, donors: Donors) -> list[Edit]:
        names = [n for site in self.selection(anatomy) for n in anatomy.parameters_of(site)]
        tensors = donors.initial(self.seed, list(dict.fromkeys(names)))
        return [SetTensor(path, tensor) for path, tensor in tensors.items()]
