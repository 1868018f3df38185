"""Linear least squares by LSMR, batched."""

from __future__ import annotations

import torch
from torch import Tensor

from surgeon.solvers.common import Cost, Map, Solution, norm, safe, spread


def lsmr(
    product: Map,
    transposed: Map,
    b: Tensor,
    *,
    damping: float | Tensor = 0.0,
    tolerance: float = 1e-8,
    iterations: int = 300,
) -> Solution:
    """Minimise |A x - b|^2 + damping^2 |x|^2 (Fong and Saunders 2011).

    From a start of zero, so that of many solutions the one of least norm is found.

    Args:
        product: v -> A v, for a batch (batch, ...) of vectors.
        transposed: u -> A^T u.
        b: (batch, ...), right-hand sides.
        damping: one number, or one for each problem.
        tolerance: on |A x - b| / (|b| + |A| |x|), and on |A^T r| / (|A| |r|) where b is out of
            reach; the authors' tests.
        iterations: at most; each is one product with A and one with its transpose.

    Returns:
        The solution; `residual` is |A x - b| / |b| by the recurrence, `converged` by either test.
    """
    scale = safe(norm(b))
    lam = torch.as_tensor(damping, dtype=b.dtype, device=b.device).expand_as(scale)
    u, beta = _normalised(b)
    v, alpha = _normalised(transposed(u))
    cost, history = Cost(transposed=1), list[float]()
    zetabar, alphabar = alpha * beta, alpha
    rho, rhobar, cbar = torch.ones_like(beta), torch.ones_like(beta), torch.ones_like(beta)
    sbar, zeta = torch.zeros_like(beta), torch.zeros_like(beta)
    h, hbar, x = v, torch.zeros_like(v), torch.zeros_like(v)
    track = _Residual(beta)
    size2 = alpha**2
    done = torch.zeros_like(beta, dtype=torch.bool)
    stopped, taken = "iterations spent", 0
    while taken < iterations:
        taken += 1
        u, beta = _normalised(product(v) - spread(alpha, u) * u)
        v, alpha = _normalised(transposed(u) - spread(beta, v) * v)
        cost.products += 1
        cost.transposed += 1
        chat, shat, alphahat = _rotation(alphabar, lam)
        rhoold = rho
        c, s, rho = _rotation(alphahat, beta)
        thetanew, alphabar = s * alpha, c * alpha
        rhobarold, zetaold = rhobar, zeta
        thetabar, rhotemp = sbar * rho, cbar * rho
        cbar, sbar, rhobar = _rotation(cbar * rho, thetanew)
        zeta, zetabar = cbar * zetabar, -sbar * zetabar
        live = (~done).to(b.dtype)
        hbar = h - spread(thetabar * rho / _nonzero(rhoold * rhobarold), h) * hbar
        x = x + spread(live * zeta / _nonzero(rho * rhobar), x) * hbar
        h = v - spread(thetanew / _nonzero(rho), v) * h
        left = track.update(chat, shat, c, s, rhotemp, thetabar, rhobar, zeta, zetaold)
        size2 = size2 + beta**2 + alpha**2
        within = left <= tolerance * (scale + size2.sqrt() * norm(x))
        done |= within | (zetabar.abs() <= tolerance * size2.sqrt() * left)
        history.append(float((left / scale).max()))
        if bool(done.all()):
            stopped = "converged"
            break
    left = norm(b - product(x)) / scale
    cost.products += 1
    return Solution(x, left, done, stopped, taken, cost, history)


def _normalised(v: Tensor) -> tuple[Tensor, Tensor]:
    length = norm(v)
    return v / spread(safe(length), v), length


def _nonzero(x: Tensor) -> Tensor:
    tiny = torch.finfo(x.dtype).tiny
    return torch.where(x.abs() < tiny, tiny, x)


def _rotation(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cosine, sine and length of the plane rotation that takes (a, b) to (length, 0)."""
    length = torch.hypot(a, b)
    kept = _nonzero(length)
    return torch.where(length > 0, a / kept, 1.0), torch.where(length > 0, b / kept, 0.0), length


class _Residual:
    """The norm of the residual, without computing it (Fong and Saunders, section 5)."""

    def __init__(self, beta: Tensor) -> None:
        self.betadd, self.betad = beta, torch.zeros_like(beta)
        self.rhodold, self.tautildeold = torch.ones_like(beta), torch.zeros_like(beta)
        self.thetatilde, self.d = torch.zeros_like(beta), torch.zeros_like(beta)

    def update(
        self,
        chat: Tensor,
        shat: Tensor,
        c: Tensor,
        s: Tensor,
        rhotemp: Tensor,
        thetabar: Tensor,
        rhobar: Tensor,
        zeta: Tensor,
        zetaold: Tensor,
    ) -> Tensor:
        acute, check = chat * self.betadd, -shat * self.betadd
        hat, self.betadd = c * acute, -s * acute
        thetatildeold = self.thetatilde
        ctilde, stilde, rhotilde = _rotation(self.rhodold, thetabar)
        self.thetatilde, self.rhodold = stilde * rhobar, ctilde * rhobar
        self.betad = -stilde * self.betad + ctilde * hat
        self.tautildeold = (zetaold - thetatildeold * self.tautildeold) / _nonzero(rhotilde)
        taud = (zeta - self.thetatilde * self.tautildeold) / _nonzero(self.rhodold)
        self.d = self.d + check**2
        return (self.d + (self.betad - taud) ** 2 + self.betadd**2).sqrt()
