"""Solvers against SciPy, dense matrices, and themselves in a batch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse.linalg
import torch

from surgeon.solvers import (
    conjugate_gradients,
    fixed_point,
    gmres,
    levenberg_marquardt,
    lsmr,
    newton_krylov,
)

DTYPE = torch.float64


def matrix(n, m=None, condition=1e2, seed=0, shift=0.0):
    """A random matrix with singular values from 1 down to 1/condition."""
    generator = torch.Generator().manual_seed(seed)
    m = m or n
    u, _ = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=DTYPE))
    v, _ = torch.linalg.qr(torch.randn(m, m, generator=generator, dtype=DTYPE))
    values = torch.logspace(0, -np.log10(condition), min(n, m), dtype=DTYPE)
    return u[:, : min(n, m)] * values @ v[:, : min(n, m)].T + shift * torch.eye(n, m, dtype=DTYPE)


def vector(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


class Counted:
    """A matrix as products, counted."""

    def __init__(self, a):
        self.a, self.calls, self.transposed = a, 0, 0

    def __call__(self, v):
        self.calls += 1
        return v @ self.a.T

    def back(self, u):
        self.transposed += 1
        return u @ self.a

    def operator(self):
        a = self.a.numpy()

        def forward(v):
            self.calls += 1
            return a @ v

        def back(u):
            self.transposed += 1
            return a.T @ u

        return scipy.sparse.linalg.LinearOperator(a.shape, matvec=forward, rmatvec=back)


# --- linear


@pytest.mark.parametrize(("n", "condition", "restart"), [(40, 1e1, 40), (120, 1e2, 120),
                                                        (200, 30, 25)])  # fmt: skip
def test_gmres_equals_scipys_and_spends_no_more(n, condition, restart):
    a, b = matrix(n, condition=condition, shift=1.5), vector(1, n)
    ours, theirs = Counted(a), Counted(a)
    solution = gmres(ours, b, tolerance=1e-10, restart=restart, iterations=2000)
    expected, info = scipy.sparse.linalg.gmres(
        theirs.operator(), b[0].numpy(), rtol=1e-10, atol=0, restart=restart, maxiter=2000
    )
    assert info == 0
    assert solution.success
    assert solution.stopped == "converged"
    torch.testing.assert_close(solution.x[0], torch.from_numpy(expected), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(solution.x[0], torch.linalg.solve(a, b[0]), rtol=1e-7, atol=1e-8)
    assert ours.calls <= 1.1 * theirs.calls
    assert solution.cost.products == ours.calls


def test_gmres_of_a_batch_is_each_problem_alone():
    batch = torch.stack([matrix(30, condition=c, shift=1.5, seed=i) for i, c in
                         enumerate((2, 1e2, 10))])  # fmt: skip
    b = vector(3, 30) * torch.tensor([[1.0], [1e-6], [1e6]])
    solution = gmres(lambda v: torch.einsum("bij,bj->bi", batch, v), b, tolerance=1e-11,
                     restart=30)  # fmt: skip
    assert solution.success
    torch.testing.assert_close(solution.x, torch.linalg.solve(batch, b), rtol=1e-8, atol=1e-12)


def test_gmres_with_an_exact_preconditioner_takes_one_product():
    a, b = matrix(50, condition=1e4, shift=0.3), vector(1, 50)
    inverse = torch.linalg.inv(a)
    solution = gmres(lambda v: v @ a.T, b, precondition=lambda v: v @ inverse.T, tolerance=1e-8)
    assert solution.success
    assert solution.cost.products <= 3


def test_gmres_says_when_it_stagnates():
    """A cyclic shift needs n vectors; with fewer, GMRES makes no progress at all."""
    shift = torch.roll(torch.eye(20, dtype=DTYPE), 1, 0)
    b = torch.eye(20, dtype=DTYPE)[:1]
    solution = gmres(lambda v: v @ shift.T, b, restart=5, iterations=100)
    assert solution.stopped == "stagnated"
    assert not solution.success


def test_gmres_starts_where_told_and_stops_at_once_if_solved():
    a, x = matrix(10, shift=1.5), vector(1, 10)
    solution = gmres(lambda v: v @ a.T, x @ a.T, x0=x)
    assert solution.cost.products == 1
    assert torch.equal(solution.x, x)


def test_conjugate_gradients_equals_scipys():
    half = matrix(60, condition=30)
    a, b = half @ half.T, vector(1, 60)
    ours, theirs = Counted(a), Counted(a)
    solution = conjugate_gradients(ours, b, tolerance=1e-10, iterations=500)
    expected, info = scipy.sparse.linalg.cg(theirs.operator(), b[0].numpy(), rtol=1e-10, atol=0)
    assert info == 0
    assert solution.success
    torch.testing.assert_close(solution.x[0], torch.from_numpy(expected), rtol=1e-6, atol=1e-7)
    assert ours.calls <= 1.1 * theirs.calls


def test_conjugate_gradients_of_a_batch_and_preconditioned():
    halves = torch.stack([matrix(20, condition=c, seed=i) for i, c in enumerate((3, 10, 1))])
    a, b = halves @ halves.mT, vector(3, 20)
    diagonal = a.diagonal(dim1=1, dim2=2)
    solution = conjugate_gradients(
        lambda v: torch.einsum("bij,bj->bi", a, v), b, precondition=lambda v: v / diagonal,
        tolerance=1e-11,
    )  # fmt: skip
    torch.testing.assert_close(solution.x, torch.linalg.solve(a, b), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(60, 40), (40, 60), (50, 50)])
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_lsmr_equals_scipys_and_the_dense_solution(n, m, damping):
    a, b = matrix(n, m, condition=20), vector(1, n)
    ours, theirs = Counted(a), Counted(a)
    solution = lsmr(ours, ours.back, b, damping=damping, tolerance=1e-9, iterations=500)
    found = scipy.sparse.linalg.lsmr(
        theirs.operator(), b[0].numpy(), damp=damping, atol=1e-9, btol=1e-9, maxiter=500
    )
    torch.testing.assert_close(solution.x[0], torch.from_numpy(found[0]), rtol=1e-5, atol=1e-6)
    stacked = torch.cat([a, damping * torch.eye(m, dtype=DTYPE)])
    right = torch.cat([b[0], torch.zeros(m, dtype=DTYPE)])
    dense = torch.linalg.lstsq(stacked, right[:, None], driver="gelsd").solution[:, 0]
    torch.testing.assert_close(solution.x[0], dense, rtol=1e-5, atol=1e-6)
    assert ours.calls <= 1.1 * theirs.calls
    residual = float((b[0] - a @ solution.x[0]).norm() / b.norm())
    assert float(solution.residual) == pytest.approx(residual, rel=1e-9)


def test_lsmr_of_a_batch():
    a = torch.stack([matrix(30, 20, condition=c, seed=i) for i, c in enumerate((2, 30, 5))])
    b = vector(3, 30)
    solution = lsmr(
        lambda v: torch.einsum("bij,bj->bi", a, v), lambda u: torch.einsum("bij,bi->bj", a, u),
        b, tolerance=1e-11, iterations=200,
    )  # fmt: skip
    dense = torch.linalg.lstsq(a, b[:, :, None]).solution[:, :, 0]
    torch.testing.assert_close(solution.x, dense, rtol=1e-6, atol=1e-8)


# --- nonlinear


def contraction(seed=0, n=50, strength=0.6):
    a = matrix(n, condition=3, seed=seed)
    shift = vector(n, seed=seed + 5)
    return lambda x: strength * torch.tanh(x @ a.T) + shift


def test_fixed_point_equals_scipys_anderson_and_spends_no_more():
    g = contraction()
    calls = []

    def f(x):
        calls.append(1)
        x = torch.from_numpy(np.asarray(x))[None]
        return (g(x) - x)[0].numpy()

    x0 = np.zeros(50)
    expected = scipy.optimize.anderson(f, x0, M=8, f_rtol=1e-9, f_tol=1e-9, w0=1e-12, alpha=-1)
    solution = fixed_point(g, torch.ones(1, 50, dtype=DTYPE), tolerance=1e-10)
    assert solution.success
    torch.testing.assert_close(solution.x[0], torch.from_numpy(expected), rtol=1e-6, atol=1e-7)
    assert solution.cost.values <= 1.1 * len(calls)


def test_acceleration_is_acceleration():
    half, shift = matrix(50, condition=30), vector(50)
    a = 0.97 * half @ half.T
    g = lambda x: x @ a.T + shift
    x0 = torch.ones(1, 50, dtype=DTYPE)
    plain = fixed_point(g, x0, memory=0, iterations=2000, patience=2000, tolerance=1e-10)
    fast = fixed_point(g, x0, iterations=2000, tolerance=1e-10)
    assert plain.success
    assert fast.success
    assert 3 * fast.cost.values < plain.cost.values
    torch.testing.assert_close(fast.x, plain.x, rtol=1e-7, atol=1e-7)


def test_fixed_points_of_a_batch():
    a, b = contraction(0), contraction(1)

    def both(x):
        return torch.cat([a(x[:1]), b(x[1:])])

    solution = fixed_point(both, torch.ones(2, 50, dtype=DTYPE), tolerance=1e-11)
    assert solution.success
    for i, g in enumerate((a, b)):
        alone = fixed_point(g, torch.ones(1, 50, dtype=DTYPE), tolerance=1e-12)
        torch.testing.assert_close(solution.x[i : i + 1], alone.x, rtol=1e-8, atol=1e-9)


def test_a_hopeless_problem_keeps_no_other_from_converging():
    """The second has no fixed point; the first is found as if alone, and computed as if alone."""
    g, seen = contraction(), []

    def some(x, numbers):
        seen.append(numbers.tolist())
        values = [
            g(v[None])[0] if n == 0 else v + 1 + v**2 for n, v in zip(numbers, x, strict=True)
        ]
        return torch.stack(values)

    x0 = torch.ones(2, 50, dtype=DTYPE)
    whole = lambda x: some(x, torch.arange(2))
    alone = fixed_point(g, x0[:1], tolerance=1e-11)
    for solution in (
        fixed_point(whole, x0, tolerance=1e-11, some=some),
        fixed_point(whole, x0, tolerance=1e-11),
    ):
        assert solution.converged.tolist() == [True, False]
        torch.testing.assert_close(solution.x[:1], alone.x, rtol=1e-9, atol=1e-9)
        assert torch.isfinite(solution.x).all()
    assert [0] in seen
    assert len(solution.history) <= alone.cost.values + 1


def test_a_fixed_point_that_is_none_is_said():
    solution = fixed_point(lambda x: x + 1 + x**2, torch.ones(1, 5, dtype=DTYPE))
    assert not solution.success
    assert solution.stopped in ("diverged", "stagnated")
    assert torch.isfinite(solution.x).all()


def residual_map(strength=0.9, n=40, seed=3):
    """x + f(x), the shape of a residual block; invertible where f contracts."""
    a, b = matrix(n, condition=5, seed=seed), matrix(n, condition=5, seed=seed + 1)
    return lambda x: x + strength * torch.tanh(2 * x @ a.T) @ b.T


def linearised(function):
    def at(x):
        value = function(x)
        return value, lambda v: torch.func.jvp(function, (x,), (v,))[1]

    return at


def test_newton_krylov_equals_scipys_and_spends_no_more():
    f = residual_map()
    x = vector(1, 40, seed=9)
    target = f(x)
    calls = []

    def scipys(z):
        calls.append(1)
        return (f(torch.from_numpy(z)[None]) - target)[0].numpy()

    start = target.clone()
    expected = scipy.optimize.newton_krylov(
        scipys, start[0].numpy(), f_tol=1e-10 * float(target.norm()), method="gmres"
    )
    solution = newton_krylov(f, linearised(f), start, target, tolerance=1e-11)
    assert solution.success
    torch.testing.assert_close(solution.x, x, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(torch.from_numpy(expected), x[0], rtol=1e-6, atol=1e-7)
    assert solution.cost.total <= 1.1 * len(calls)


def test_newton_converges_faster_than_linearly():
    f = residual_map()
    target = f(vector(1, 40, seed=9))
    history = newton_krylov(f, linearised(f), target.clone(), target, tolerance=1e-13).history
    pairs = itertools.pairwise(history)
    orders = [np.log(b) / np.log(a) for a, b in pairs if 1e-12 < b < a < 0.1]
    assert max(orders) > 1.5


def test_newton_of_a_batch_of_tokens():
    """The tokens of an mlp are problems of their own; an easy one waits for a hard one."""
    f = residual_map(strength=0.8)
    x = vector(6, 40, seed=4) * torch.tensor([1e-3, 0.1, 0.5, 1, 2, 4])[:, None]
    target = f(x)
    solution = newton_krylov(f, linearised(f), target.clone(), target, tolerance=1e-11)
    assert solution.success
    torch.testing.assert_close(f(solution.x), target, rtol=1e-9, atol=1e-10)


def test_newton_at_a_fold_says_stagnated():
    """x^2 = -1 has no real solution."""
    solution = newton_krylov(
        lambda x: x**2, linearised(lambda x: x**2), torch.full((1, 3), 0.5, dtype=DTYPE),
        torch.full((1, 3), -1.0, dtype=DTYPE),
    )  # fmt: skip
    assert not solution.success
    assert solution.stopped in ("stagnated", "iterations spent")
    assert torch.isfinite(solution.x).all()


def least_squares(function):
    def at(x):
        value, pull = torch.func.vjp(function, x)
        return value, lambda v: torch.func.jvp(function, (x,), (v,))[1], lambda u: pull(u)[0]

    return at


def test_levenberg_marquardt_equals_scipys():
    a, b = matrix(30, 12, condition=8), matrix(30, 12, condition=3, seed=7)

    def f(x):
        return torch.sin(x @ a.T) + 0.3 * (x @ b.T) ** 2

    target = f(vector(1, 12, seed=2)) + 0.01 * vector(1, 30, seed=8)
    start = torch.zeros(1, 12, dtype=DTYPE)
    found = scipy.optimize.least_squares(
        lambda z: (f(torch.from_numpy(z)[None]) - target)[0].numpy(), start[0].numpy(),
        method="lm", xtol=1e-14, ftol=1e-14,
    )  # fmt: skip
    solution = levenberg_marquardt(f, least_squares(f), start, target, iterations=200, inner=12)
    residual = float(np.linalg.norm(found.fun) / target.norm())
    assert float(solution.residual) == pytest.approx(residual, rel=1e-6)
    torch.testing.assert_close(solution.x[0], torch.from_numpy(found.x), rtol=1e-3, atol=1e-4)


def test_levenberg_marquardt_reaches_a_zero_residual_quickly():
    a = matrix(60, 20, condition=10)

    def f(x):
        return torch.tanh(x @ a.T)

    x = vector(3, 20, seed=5) / 3
    target = f(x)
    solution = levenberg_marquardt(f, least_squares(f), torch.zeros_like(x), target, inner=40,
                                   tolerance=1e-10)  # fmt: skip
    assert solution.success
    torch.testing.assert_close(solution.x, x, rtol=1e-6, atol=1e-7)
    assert solution.iterations < 30


def test_singular_jacobians_do_not_stop_it():
    """More unknowns than equations: some solution is found."""

    def f(x):
        return x[:, :5] * (1 + x[:, 5:] ** 2)

    target = torch.full((2, 5), 2.0, dtype=DTYPE)
    solution = levenberg_marquardt(f, least_squares(f), torch.zeros(2, 10, dtype=DTYPE), target)
    assert solution.success
    torch.testing.assert_close(f(solution.x), target, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 12), (4, 3, 4), (2, 2, 3, 2)])
def test_any_shape_and_dtype(dtype, shape):
    n = int(np.prod(shape[1:]))
    a = (matrix(n, condition=3, shift=1.5)).to(dtype)

    def product(v):
        return (v.flatten(1) @ a.T).reshape(v.shape)

    b = vector(*shape).to(dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for x in (
        gmres(product, b, tolerance=tolerance).x,
        newton_krylov(product, linearised(product), b, b, tolerance=tolerance).x,
        lsmr(product, lambda u: (u.flatten(1) @ a).reshape(u.shape), b, tolerance=tolerance).x,
        fixed_point(lambda x: x - 0.5 * (product(x) - b), b, tolerance=tolerance).x,
    ):
        assert x.shape == shape
        assert x.dtype == dtype
        torch.testing.assert_close(product(x), b, rtol=30 * tolerance, atol=30 * tolerance)


def test_solvers_know_nothing_of_models():
    import ast
    from pathlib import Path

    import surgeon.solvers

    for path in Path(surgeon.solvers.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert not node.module.startswith("surgeon") or "solvers" in node.module, path
