"""Where a verdict changes. Fixed before any case was judged; this is the one place for them.

Singular values, determinants and distances are in float64 unless said otherwise.
"""

from __future__ import annotations

#: Condition numbers from which a map is called ill-conditioned: of float32's seven digits, three
#: or more are lost on the way back.
ILL_CONDITIONED = 1e3
#: Singular values are promised to within this share, and so is the threshold above.
ROOM = 0.01
#: A determinant's sign speaks only if the smallest singular value is at least this share of the
#: largest. Rounding of a Jacobian in float64 stays below 1e-12 of its largest singular value, and
#: no perturbation smaller than the smallest singular value changes the sign.
DETERMINANT_MARGIN = 1e-8
#: Outputs that are nearer than this, relative, are a collision to tolerance; float64.
COLLISION = 1e-10
#: The same pair in float32, whose own rounding is 6e-8 a number: by plain matrix products, and by
#: the kernels that torch chooses.
COLLISION_SINGLE = 1e-6
#: Inputs of a collision are apart by at least this, relative to the first ...
APART = 1e-2
#: ... and images by so much that their PSNR is at most this, in dB.
APART_PSNR = 15.0
#: Another pre-image is one whose output is this near, relative, and which is itself this far away,
#: relative; it is shown beside a proof and decides nothing.
PREIMAGE, DISTINCT = 1e-12, 1e-4
#: A unit is dead, or alive, at a point if what enters its kink is at least this share of the
#: largest entry away from it.
KINK_MARGIN = 1e-9
#: Singular values below this times the larger dimension times the largest one are rounding.
ROUNDING = 2.220446049250313e-16


def is_ill_conditioned(condition: float) -> bool:
    """Whether a condition number is one that the verdict speaks of.

    >>> is_ill_conditioned(1e3), is_ill_conditioned(500.0)
    (True, False)
    """
    return not condition < ILL_CONDITIONED * (1 - ROOM)
