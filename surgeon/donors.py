"""Where swapped and re-initialised tensors come from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from torch import Tensor, nn

from surgeon.anatomist.anatomy import Anatomy
from surgeon.anatomist.look import look
from surgeon.anatomist.site import Site, shape_text
from surgeon.errors import PlanError, RecipeError, SelectionError, nearest
from surgeon.fitting import Place, fit
from surgeon.recipe import ModelSpec
from surgeon.sources import load_model, meta_model, preprocessing_of, renamed, weights_store
from surgeon.surgery.edits import TensorSource
from surgeon.weights import TensorStore, store_of


class Donor:
    """One donor: its tensors, and its anatomy where names alone don't match."""

    def __init__(self, name: str, spec: ModelSpec) -> None:
        self.name, self.spec = name, spec

    @cached_property
    def store(self) -> TensorStore:
        return weights_store(self.spec)

    @cached_property
    def anatomy(self) -> Anatomy:
        model = meta_model(self.spec)
        return look(model, preprocessing_of(self.spec, model).input_size)

    def names_for(self, site: Site, anatomy: Anatomy) -> dict[str, str]:
        """Parameter of the site -> the donor's name of it.

        Equal names are taken as they are; else the site of the same role, part by part in order.
        What the constructor computes from the geometry (index tables, masks) stays as it is.
        """
        own = anatomy.parameters_of(site)
        if site.kind != "parameter":
            own = [name for name in own if name not in anatomy.graph.derived]
        if all(name in self.store.shapes for name in own):
            return {name: name for name in own}
        if self.spec.weights is not None:
            self.store = renamed(self.spec, self.store)  # a checkpoint of another layout, it may be
            if all(name in self.store.shapes for name in own):
                return {name: name for name in own}
        asked = f'swap {site.name} from donor "{self.name}" ({self.spec.label})'
        try:
            theirs = self.anatomy.select(site.role or site.path)
        except SelectionError as error:
            raise PlanError(asked, f"{self.anatomy.model}: {error.found}", error.hint) from None
        names = self.anatomy.parameters_of(theirs[0])
        if site.kind != "parameter":
            names = [name for name in names if name not in self.anatomy.graph.derived]
        if len(names) != len(own):
            raise PlanError(
                asked,
                f"{len(own)} tensors here ({', '.join(own[:3])}),"
                f" {len(names)} there ({', '.join(names[:3])})",
                "a donor of the same family, or a smaller site",
            )
        return dict(zip(own, names, strict=True))

    def source(self, theirs: str, own: str, anatomy: Anatomy) -> TensorSource | None:
        """A tensor in the shape the model has it, None where it can't be brought into that."""
        source = self.store.source(theirs)
        if source.shape == anatomy.graph.parameters[own]:
            return source
        if theirs not in self.anatomy.graph.parameters:
            return None
        return fit(source, Place(theirs, self.anatomy), Place(own, anatomy))


class DonorShelf:
    """The donors of a recipe, and the model's own constructor.

    Args:
        donors: name -> spec.
        model: the spec of the operated model, None for a model of the user's.
    """

    def __init__(self, donors: Mapping[str, ModelSpec], model: ModelSpec | None) -> None:
        self.donors = {name: Donor(name, spec) for name, spec in donors.items()}
        self.model = model

    def tensors(self, donor: str, site: Site, anatomy: Anatomy) -> dict[str, TensorSource]:
        """See `surgeon.operations.base.Donors`."""
        if donor not in self.donors:
            raise RecipeError(
                f'swap {site.name} from donor "{donor}"',
                f"the recipe names {', '.join(self.donors) or 'no donors'}",
                nearest(donor, self.donors) or f"add [donors.{donor}]",
            )
        found = self.donors[donor]
        tensors = {}
        for own, theirs in found.names_for(site, anatomy).items():
            source = found.source(theirs, own, anatomy)
            if source is None:
                raise PlanError(
                    f'swap {site.name} from donor "{donor}" ({found.spec.label})',
                    f"{theirs} is {shape_text(found.store.shapes[theirs])} there,"
                    f" {own} is {shape_text(anatomy.graph.parameters[own])} here,"
                    " and there is no resampling between them",
                    "a donor of the same width and depth, or another site",
                )
            tensors[own] = source
        return tensors

    def initial(self, seed: int, names: list[str]) -> dict[str, TensorSource]:
        """See `surgeon.operations.base.Donors`."""
        if self.model is None:
            raise PlanError(
                f"reinit {', '.join(names[:2])}",
                "the model is your own, its constructor is not known",
                "name the model in the recipe, or swap from a donor",
            )
        spec = ModelSpec(self.model.name, None, seed, self.model.options)
        store = _Fresh(spec)
        shapes = {n: tuple(t.shape) for n, t in _named(meta_model(spec)).items()}
        return {name: store.source(name, shapes[name]) for name in names}


class _Fresh:
    """A model built anew, once, when one of its tensors is asked for."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    @cached_property
    def store(self) -> TensorStore:
        return store_of(_named(load_model(self.spec)), f"{self.spec.name}, seed {self.spec.seed}")

    def source(self, name: str, shape: tuple[int, ...]) -> TensorSource:
        origin = f"{self.spec.name}, seed {self.spec.seed}"
        return TensorSource(shape, lambda: self.store.read(name), origin)


def _named(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name they have."""
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return {name: tensor.detach() for name, tensor in named}
