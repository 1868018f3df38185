"""The `filters` probe: a grid of filters, each one's wavelet score, and the share without one."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from surgeon.anatomist.site import Site
from surgeon.imaging.wavelets import WaveletScores, patternless_share, threshold, wavelet_scores
from surgeon.probe import Inputs, Result, State, Step
from surgeon.randomness import stream
from surgeon.recipe import ModelSpec
from surgeon.subject import Subject
from surgeon_filters.banks import bank_of, grid_of, other_weights, weight_of
from surgeon_filters.picture import draw
from surgeon_filters.settings import FiltersSettings

#: With a threshold above this, chance alone looks like a wavelet: the kernel is too small.
_TOO_SMALL = 0.8
_FIELDS = [f.name for f in fields(WaveletScores)]


class Filters:
    """Grids as in the post: per filter (w - min) / (max - min).

    Steps: one for the scores of each site, one for what it is compared with, then one for each
    untrained seed.
    """

    Settings: ClassVar[type[FiltersSettings]] = FiltersSettings

    def start(self, subject: Subject, inputs: Inputs, settings: FiltersSettings) -> State:
        for site in subject.sites(settings.sites):
            _own_bank(subject, site, settings)
        return {"site": 0, "stage": "own", "seed": 0}

    def step(
        self, subject: Subject, inputs: Inputs, settings: FiltersSettings, state: State
    ) -> Step:
        sites = subject.sites(settings.sites)
        number = state["site"]
        site, following = sites[number], dict(state)
        bank = _own_bank(subject, site, settings)
        if state["stage"] == "own":
            following |= _kept(wavelet_scores(bank), f"own/{number}", bank)
            following["stage"] = "compare"
        elif state["stage"] == "compare":
            spec = _compared(subject, settings)
            if spec is not None:
                other = _bank_from(spec, subject, site, settings)
                following |= _kept(wavelet_scores(other), f"compare/{number}", other)
            following |= {"stage": "null", f"null/{number}": torch.zeros(0, dtype=torch.float64)}
        else:
            following |= _with_null(subject, site, settings, state, bank)
        done = following["site"] >= len(sites)
        share = 1.0 if done else (number + (state["seed"] + 1) / (settings.null_seeds + 2))
        text = f"{site.name}  {state['stage']}"
        return Step(following, done=done, progress=share / max(len(sites), 1), text=text)

    def finish(
        self, subject: Subject, inputs: Inputs, settings: FiltersSettings, state: State
    ) -> Result:
        result = Result(draw=draw)
        for number, site in enumerate(subject.sites(settings.sites)):
            null = state[f"null/{number}"]
            self._report(result, site.name, f"own/{number}", null, settings, state)
            if f"compare/{number}" in state:
                label = f"{site.name}, {settings.compare}"
                self._report(result, label, f"compare/{number}", null, settings, state)
            result.tensors[f"null/{site.name}"] = null
            if threshold(null) > _TOO_SMALL:
                size = "x".join(map(str, state[f"own/{number}"].shape[2:]))
                result.notes.append(
                    f"{site.name}: filters of {size} pixels are too small to tell a wavelet from"
                    f" chance (its threshold is {threshold(null):.2f})"
                )
        if subject.plan.recipe.model is None:
            result.notes.append("a model of your own: the null is its own filters, pixels shuffled")
        return result

    def _report(
        self,
        result: Result,
        label: str,
        key: str,
        null: Tensor,
        settings: FiltersSettings,
        state: State,
    ) -> None:
        """The figures, table and grid of one bank."""
        bank = state[key]
        scores = {name: state[f"{key}/{name}"] for name in _FIELDS}
        order = list(range(len(bank)))
        if settings.order == "score":
            order = scores["score"].argsort(descending=True, stable=True).tolist()
        result.figures[label] = {
            "filters": len(bank),
            "channels": bank.shape[1],
            "height": bank.shape[2],
            "width": bank.shape[3],
            "wavelets": 1 - patternless_share(scores["score"], null),
            "patternless": patternless_share(scores["score"], null),
            "threshold": threshold(null),
            "null_filters": len(null),
            "score_median": float(scores["score"].median()),
            "orientation_median": float(scores["orientation"].median()),
            "frequency_median": float(scores["frequency"].median()),
            "colour_median": float(scores["colour"].median()),
        }
        chosen = order[: settings.count]
        result.images[label] = grid_of(bank, chosen, settings.columns)
        result.images[f"{label}, fits"] = grid_of(
            scores["fits"][:, None].float(), chosen, settings.columns
        )
        result.tensors[f"filters/{label}"] = bank
        numbers = [n for n in _FIELDS if n != "fits"]
        result.tables[label] = [
            {"filter": i, **{name: float(scores[name][i]) for name in numbers}} for i in order
        ]


def _own_bank(subject: Subject, site: Site, settings: FiltersSettings) -> Tensor:
    name = weight_of(subject, site)
    weight = dict(subject.model.named_parameters())[name]
    return bank_of(weight, subject.preprocessing.input_size[0], settings.layout, site.name)


def _bank_from(spec: ModelSpec, subject: Subject, site: Site, settings: FiltersSettings) -> Tensor:
    name = weight_of(subject, site)
    weight = other_weights(spec, [name])[name]
    return bank_of(weight, subject.preprocessing.input_size[0], settings.layout, site.name)


def _compared(subject: Subject, settings: FiltersSettings) -> ModelSpec | None:
    """The model shown beside; none where that is the model itself, or can't be built."""
    model = subject.plan.recipe.model
    if settings.compare in (None, "none"):
        return None
    if settings.compare == "untrained":
        plain = replace(model, weights=None) if model is not None else None
        return None if plain == model and not subject.plan.recipe.operations else plain
    return ModelSpec.parse(str(settings.compare))


def _kept(scores: WaveletScores, key: str, bank: Tensor) -> dict[str, Any]:
    return {key: bank, **{f"{key}/{name}": getattr(scores, name) for name in _FIELDS}}


def _with_null(
    subject: Subject, site: Site, settings: FiltersSettings, state: State, bank: Tensor
) -> State:
    """One more untrained seed in the null; the next site, if they are enough."""
    key, seed = f"null/{state['site']}", state["seed"]
    model = subject.plan.recipe.model
    if model is None:
        generator = stream("filters/null", seed)
        noise = torch.rand(bank[:, 0].flatten(1).shape, generator=generator)
        order = noise.argsort(1)[:, None].expand(-1, bank.shape[1], -1)
        other = bank.flatten(2).gather(2, order).reshape(bank.shape)
    else:  # seeds apart from the model's own
        spec = replace(model, weights=None, seed=model.seed + 1 + seed)
        other = _bank_from(spec, subject, site, settings)
    missing = settings.null_filters - len(state[key])
    null = torch.cat([state[key], wavelet_scores(other[:missing]).score])
    enough = len(null) >= settings.null_filters or seed + 1 >= settings.null_seeds
    following = {key: null, "seed": seed + 1}
    if enough:
        following |= {"seed": 0, "stage": "own", "site": state["site"] + 1}
    return following
