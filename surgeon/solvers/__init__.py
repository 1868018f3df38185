"""Solvers on torch tensors: batched, on any device and dtype. They know nothing of models.

A batch of problems is solved at once: unknowns are (batch, ...), each row a problem of its own with
its own convergence. Each solver returns a `Solution`, which says what it spent and why it stopped.

    fixed_point    Anderson-accelerated fixed point
    gmres          linear, square, by matrix-vector products
    conjugate_gradients   linear, symmetric positive definite
    lsmr           linear least squares, by products with A and its transpose
    newton_krylov  nonlinear, square, by Jacobian-vector products
    levenberg_marquardt   nonlinear least squares, by products with J and its transpose
"""

from surgeon.solvers.anderson import fixed_point
from surgeon.solvers.common import Cost, Solution
from surgeon.solvers.krylov import conjugate_gradients, gmres
from surgeon.solvers.lsmr import lsmr
from surgeon.solvers.marquardt import levenberg_marquardt
from surgeon.solvers.newton import newton_krylov

__all__ = [
    "Cost",
    "Solution",
    "conjugate_gradients",
    "fixed_point",
    "gmres",
    "levenberg_marquardt",
    "lsmr",
    "newton_krylov",
]
