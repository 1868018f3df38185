"""Whether a study could run, without running it."""

from __future__ import annotations

from surgeon.recipe import ModelSpec
from surgeon.studies.judging import load_check
from surgeon.studies.study import Study


def check_study(path: str) -> None:
    """See that a study's cells parse, that what they name is there, and that its checks import.

    Raises:
        SurgeonError: what is not.
        AssertionError: it has no cells, or is another when written and read again.
    """
    from surgeon.imaging.files import find_images
    from surgeon.sources import resolve

    study = Study.read(path)
    cells = study.cells()
    assert cells, f"{path} has no cells"
    again = Study.from_toml(study.to_toml()).cells()
    assert [(c.labels, c.probe, c.recipe) for c in again] == [
        (c.labels, c.probe, c.recipe) for c in cells
    ], f"{path} is another when written and read again"
    recipes = [cell.recipe for cell in cells if cell.recipe is not None]
    models = {spec for r in recipes for spec in (r.model, *r.donors.values()) if spec is not None}
    for spec in models:
        resolve(ModelSpec(spec.name, spec.weights))
    for image in {r.input.image for r in recipes if r.input.image is not None}:
        find_images(image)
    for finding in study.findings:
        load_check(finding.check)
