"""Every error Surgeon raises on purpose.

    SurgeonError
    ├── RecipeError        a recipe can't be read, or two can't be joined
    ├── StudyError         a study can't be read, or its cells can't be made
    ├── SelectionError     a selector is malformed, matches nothing, or not as many as expected
    ├── AnatomyError       a model can't be looked at: wrong input size, several inputs
    ├── PlanError          a recipe can't be carried out on this model
    ├── RestoreError       undoing met a failure; what could be undone was
    ├── ModelError         no such model, or it can't be built
    ├── WeightsError       weights missing, unreadable, refused or of another shape
    ├── ImageError         an image missing, unreadable or unfit
    ├── ProbeError         a probe's settings or input are wrong
    ├── RunError           a run folder can't be written or read
    ├── DeviceError        a device or dtype that isn't there
    └── PluginError        a plugin is broken, missing, or two register one name

Each says in three lines what was asked, what was found, and what to try.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class SurgeonError(Exception):
    """Base of all. Shown to users as it is, without a traceback.

    Attributes:
        asked: what the user asked for, with file, line and key where it was a recipe.
        found: what stood in the way.
        hint: what to try, the nearest names first.
    """

    def __init__(self, asked: str, found: str, hint: str) -> None:
        self.asked, self.found, self.hint = (" ".join(s.split()) for s in (asked, found, hint))
        super().__init__(f"asked: {self.asked}\nfound: {self.found}\ntry:   {self.hint}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.asked, self.found, self.hint)

    def located(self, place: str) -> SurgeonError:
        """The same error, its first line saying where in a file the question stands."""
        return type(self)(f"{self.asked} ({place})", self.found, self.hint)


class RecipeError(SurgeonError):
    """A recipe can't be read, or two recipes can't be joined."""


class StudyError(SurgeonError):
    """A study can't be read, or its cells can't be made."""


class SelectionError(SurgeonError):
    """A selector is malformed, matches nothing, or not as many sites as expected."""


class AnatomyError(SurgeonError):
    """A model can't be looked at."""


class PlanError(SurgeonError):
    """A recipe can't be carried out on this model."""


class RestoreError(SurgeonError):
    """Undoing met a failure; every other step was undone."""


class ModelError(SurgeonError):
    """No such model, or it can't be built."""


class WeightsError(SurgeonError):
    """Weights are missing, unreadable, refused or of another shape."""


class ImageError(SurgeonError):
    """An image is missing, unreadable or unfit for the model."""


class ProbeError(SurgeonError):
    """A probe's settings or inputs are wrong."""


class RunError(SurgeonError):
    """A run folder can't be written or read."""


class DeviceError(SurgeonError):
    """A device or dtype that isn't there."""


class PluginError(SurgeonError):
    """A plugin is broken or missing, or two plugins register one name."""


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """The names most like a misspelt one, for the third line of an error.

    >>> nearest("bypas", ["bypass", "ablate"])
    'bypass'
    """
    known = list(dict.fromkeys(names))
    found = get_close_matches(name, known, count, 0.5) or known[:count]
    return ", ".join(found)
