"""Certificates that a ball holds exactly one exact pre-image (Newton and Kantorovich).

With A near the inverse of the Jacobian J at a point c, the map x -> x - A (F(x) - y) takes the ball
of radius r around c into itself and contracts it, if

    |A (F(c) - y)| + (|I - A J| + |A| L r) r <= r   and   |I - A J| + |A| L r <= 1/2

where L bounds F's second derivative in the ball (Kantorovich 1948; Rump, "Verification methods",
2010, section 13). Its one fixed point there is then an exact solution of F(x) = y, rounding
included: F(c), J and every product are taken with what float64 may have lost in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from surgeon.diagnosis.bounds import UNIT, Bound, gamma

#: The ball that second derivatives are bounded in has this radius times that of the certificate.
_ROOM = 2.0
#: What is added for rounding of norms and of scalars.
_ABOVE = 1 + 1e-9


@dataclass(frozen=True)
class Ball:
    """A ball that holds exactly one exact pre-image.

    Attributes:
        radius: around the centre, in the source's units.
        step: |A (F(c) - y)|, rounding included.
        contraction: |I - A J| + |A| L r; at most 1/2.
        inverse: |A|, about 1 / the smallest singular value.
        second: L.
        sign: of the determinant of the Jacobian everywhere in the ball; 0 where not worked out.
    """

    radius: float
    step: float
    contraction: float
    inverse: float
    second: float
    sign: int

    def as_row(self) -> dict[str, float | int]:
        """For tables."""
        return asdict(self)


def certify(
    value: Tensor,
    jacobian: Tensor,
    target: Tensor,
    bound: Callable[[float], Bound | None],
) -> Ball | None:
    """A ball around a point that holds exactly one x with F(x) = target.

    Args:
        value: (n,), F at the point as computed in float64.
        jacobian: (n, n), there, as computed in float64.
        target: (n,), float64, taken as exact.
        bound: radius -> bound on F in the ball of that radius; None where there is none.

    Returns:
        None where the conditions don't hold: nothing is said then.
    """
    n = len(target)
    here = bound(0.0)
    inverse, trouble = torch.linalg.inv_ex(jacobian.double())
    if here is None or int(trouble) or not bool(torch.isfinite(inverse).all()):
        return None
    size = float(torch.linalg.matrix_norm(inverse, 2)) * _ABOVE
    whole = float(torch.linalg.matrix_norm(inverse)) * _ABOVE
    left = value.double() - target.double()
    lost = here.rounding + 2 * UNIT * float(value.norm() + target.norm())
    step = (
        float((inverse @ left).norm()) + gamma(n + 4) * whole * float(left.norm()) + size * lost
    ) * _ABOVE
    remainder = torch.eye(n, dtype=torch.float64, device=inverse.device) - inverse @ jacobian
    products = gamma(n + 4) * whole * float(torch.linalg.matrix_norm(jacobian))
    near = float(torch.linalg.matrix_norm(remainder)) + 2 * products
    near = (near + size * here.derivative_rounding) * _ABOVE
    radius = 2 * step
    around = bound(_ROOM * radius)
    if around is None:
        return None
    contraction = near + size * around.second * radius * _ABOVE
    if not contraction <= 0.5:  # NaN too
        return None
    sign = int(torch.linalg.slogdet(jacobian.double())[0])
    return Ball(radius, step, contraction, size, around.second, sign)


def disjoint(a: Ball, b: Ball, apart: float) -> bool:
    """Whether two balls share no point; their centres are so far apart."""
    return apart * (1 - 1e-9) > (a.radius + b.radius) * _ABOVE
