"""The verdict on the map from the pixels to a site."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from surgeon.diagnosis.certificates import COLLIDES, OPEN, PROVED, Certificate, Evidence
from surgeon.diagnosis.collisions import Pair, stem_matrix
from surgeon.diagnosis.counting import counting_proof, narrows, stem_site
from surgeon.diagnosis.judging import judge_matrix, judge_spectrum, spectra
from surgeon.inversion.jacobians import whole_jacobian
from surgeon.inversion.strategy import precisions

if TYPE_CHECKING:
    from surgeon.anatomist.site import Site
    from surgeon.subject import Subject


def judge_stem(subject: Subject) -> Certificate | None:
    """The verdict on a patch stem alone, exactly; None where it is no single projection."""
    weight = stem_matrix(subject)
    return None if weight is None else judge_matrix(weight.flatten(1))


def judge_from_pixels(
    subject: Subject, site: Site, image: Tensor, *, dense: int,
    stem: Certificate | None, pair: Pair | None,
) -> tuple[Certificate, Tensor | None]:  # fmt: skip
    """The verdict on everything from the pixels to a site, at one image.

    Proofs are counting, and a stem with an exact null space that everything passes through. A
    sublayer that is not injective proves nothing here: its other pre-images need not be images.

    Args:
        image: (1, channels, height, width) in [0, 1].
        dense: columns at most of a Jacobian that is worked out whole.
        stem: of `judge_stem`.
        pair: of `examine` at this site, if there is one.

    Returns:
        The certificate, and the singular values where they were worked out.
    """
    counts = narrows(subject, site)
    found = [pair.evidence()] if pair is not None and pair.verified else []
    values, certificate = None, None
    if math.prod(image.shape[1:]) <= dense:
        certificate, values = _dense(subject, site, image)
        found = [*certificate.evidence, *found]
    proof = counting_proof(counts)
    passes = stem_site(subject.anatomy)
    if proof is not None:
        rest = [e for e in found if e.kind != proof.kind]
        return Certificate(PROVED, (proof, *rest)), values
    if stem is not None and stem.verdict == PROVED and passes and counts[0].site == passes.name:
        return Certificate(PROVED, (stem.evidence[0], *found)), values
    if pair is not None and pair.verified:
        return Certificate(COLLIDES, (pair.evidence(), *found[:-1])), values
    if certificate is not None:
        return Certificate(certificate.verdict, tuple(found)), values
    size = math.prod(image.shape[1:])
    text = f"its Jacobian has {size:,} columns, and at most {dense:,} are worked out"
    missed = () if pair is None else (pair.evidence(),)
    return Certificate(OPEN, (Evidence("none", text, {"columns": size}), *missed)), None


def _dense(subject: Subject, site: Site, image: Tensor) -> tuple[Certificate, Tensor | None]:
    segment = subject.segment(None, site)
    kind = precisions(subject.device)[-1]
    x = image.to(subject.device, kind)
    subject.ledger.jvp(segment.flops, x.numel())
    with subject.in_dtype(kind, segment.parameters):
        jacobian = whole_jacobian(segment, x)
    if not bool(torch.isfinite(jacobian).all()):
        return judge_spectrum(None), None
    spectrum = spectra(jacobian[None])[0]
    return judge_spectrum(spectrum), spectrum.values
