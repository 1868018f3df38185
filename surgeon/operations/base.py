"""What every operation is: pure data that resolves to edits."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import BeforeValidator, ConfigDict, Field, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.site import Selection, Site
from surgeon.errors import SelectionError
from surgeon.surgery.edits import Edit, TensorSource

#: Unknown keys are errors; so is a number for a text.
STRICT = ConfigDict(extra="forbid")


def _several(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


#: A selector, or several.
Selector = Annotated[StrictStr | tuple[StrictStr, ...], BeforeValidator(_several)]
Count = Annotated[StrictInt, Field(ge=0)]


class Donors(Protocol):
    """Where operations get tensors from."""

    def tensors(self, donor: str, site: Site, anatomy: Anatomy) -> dict[str, TensorSource]:
        """For each parameter and buffer of the site, the donor's tensor of the same role.

        Raises:
            RecipeError: no such donor.
            PlanError: the donor has no such site, or its shapes differ; both are named.
        """

    def initial(self, seed: int, names: list[str]) -> dict[str, TensorSource]:
        """Parameters and buffers as the model's own constructor makes them under a seed.

        Raises:
            PlanError: the model's constructor is not known.
        """


class Operation(Protocol):
    """One change, as named in a recipe. Never touches a model."""

    op: ClassVar[str]

    @property
    def site(self) -> str | tuple[str, ...]:
        """A selector, or several."""

    @property
    def expect(self) -> int | None:
        """How many places must be edited."""

    def resolve(self, anatomy: Anatomy, donors: Donors) -> list[Edit]:
        """The edits that carry it out on a model of this anatomy, un-operated.

        Raises:
            SelectionError, PlanError: it can't be carried out.
        """


@dataclass(frozen=True, config=STRICT)
class SiteOperation:
    """An operation at selected sites.

    Attributes:
        site: a selector, or several.
        expect: how many places must be edited; a guard, for recipes that travel.
    """

    op: ClassVar[str] = ""
    site: Selector
    _: KW_ONLY
    expect: Count | None = None

    def selection(self, anatomy: Anatomy) -> Selection:
        return anatomy.select(self.site)


def single(selection: Selection, asked: str) -> Site:
    """The one site of a selection.

    Raises:
        SelectionError: there are several.
    """
    if len(selection) != 1:
        names = ", ".join(site.name for site in selection[:4])
        raise SelectionError(
            f'{asked} "{selection.selector}"',
            f"it matches {len(selection)} sites: {names} ...",
            f'one site: "{selection[-1].name}"',
        )
    return selection[0]
