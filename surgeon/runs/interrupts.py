"""What is left of a run that was interrupted: its last images, to look at and to keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgeon.probe import Inputs, Probe, Result, State
    from surgeon.subject import Subject

_kept: list[Result] = []


def interrupted() -> Result | None:
    """What the last run that was interrupted had come to; None if there was none.

    In a notebook it is also shown when the cell is stopped. Images are as they were, without the
    figures that the end of a run would give them; curves are of the log so far.

    >>> interrupted() is None
    True
    """
    return _kept[-1] if _kept else None


def keep_glimpse(
    name: str,
    probe: Probe,
    subject: Subject,
    inputs: Inputs,
    settings: Any,
    state: State,
    log: list[dict[str, Any]],
    error: KeyboardInterrupt,
) -> None:
    """Keep what a state has to show, if the probe can show it, and show it in a notebook.

    Whatever goes wrong with that is noted on the error, which goes on to the user.
    """
    _kept.clear()  # what an earlier run left is not this one's
    glimpse = getattr(probe, "glimpse", None)
    if glimpse is None:
        return
    try:
        result: Result = glimpse(subject, inputs, settings, state)
    except Exception as cause:
        error.add_note(f"its last images could not be kept: {cause!r}")
        return
    if not result.images:  # it had come to none yet
        return
    recipe = inputs.recipe
    result.probe = name
    result.log = log
    result.notes.insert(0, f"interrupted after {len(log)} lines of the log")
    result.record = {
        "probe": result.probe,
        "model": recipe.model.label if recipe.model else type(subject.model).__name__,
        "recipe": recipe.digest,
        "recipe_toml": recipe.to_toml(),
        "interrupted": True,
    }
    _kept.append(result)
    from surgeon.notebook import show_if_notebook

    show_if_notebook(result)
