"""Speed of SFLCB: a grid of runs as one batch, against plain PyTorch loops over the same runs in one process."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from reproven.harness.context import Context
from reproven.papers.sflcb.beds.lcqp import LCQP, draw, stack
from reproven.papers.sflcb.sflcb import State, Steps, sflcb, start


def throughput(
    ctx: Context,
    *,
    size: list[int],
    problems: int,
    settings: int,
    iterations: int,
    loop_runs: int,
    repeats: int,
) -> None:
    """Runs x iterations a second of a problems-by-steps grid on LC-QPs, batched and in loops.

    The peers are what one would write first: one run after another, one torch statement a line of Algorithm 1;
    ``torch_loop`` with gradients by hand, ``torch_autograd_loop`` with autograd. Both run on `loop_runs` of the
    grid's runs, spread over problems and steps; the batch takes the whole grid. Ours is the median of
    `repeats`, a peer its fastest. Records throughput, speedup, and mismatch: the largest difference of x
    between the batch and the hand-written loop.
    """
    dx, dy, dh = size
    bed = [draw(dx, dy, dh, ctx.generator("throughput", problem=i)) for i in range(problems)]
    batch = stack(bed)
    eta = np.geomspace(0.01, 0.05, settings)[:, None]
    steps = Steps(eta, eta, eta, 5 * eta, 5 * eta)
    first = start(batch, np.zeros((problems, settings, dx)), np.zeros((problems, settings, dy)))

    def whole() -> State:
        return sflcb(batch, first, iterations=iterations, delta=0.1, rho=0.5, steps=steps).state

    whole()
    seconds, states = zip(*[_timed(whole) for _ in range(repeats)])
    ours = problems * settings * iterations / float(np.median(seconds))
    ctx.record("throughput", ours, unit="runs x iterations/s", direction="higher", how="batch")
    picked = np.unique(np.linspace(0, problems * settings - 1, loop_runs).astype(int))
    where = [(int(k) // settings, int(k) % settings) for k in picked]
    for name, loop in (("torch_loop", _loop), ("torch_autograd_loop", _autograd_loop)):
        ctx.progress(0.5, name)
        times = []
        worst = 0.0
        for _ in range(2):
            begin = time.perf_counter()
            ends = [loop(bed[i], float(eta[j, 0]), iterations) for i, j in where]
            times.append(time.perf_counter() - begin)
        for (i, j), x in zip(where, ends):
            worst = max(worst, float(np.abs(x - states[0].x[i, j]).max()))
        speed = len(where) * iterations / min(times)
        ctx.record("throughput", speed, unit="runs x iterations/s", direction="higher", how=name)
        ctx.record("speedup", ours / speed, unit="x", direction="higher", how=name)
        ctx.record("mismatch", worst, unit="1", direction="lower", how=name)


def _timed(call: Callable[[], State]) -> tuple[float, State]:
    begin = time.perf_counter()
    answer = call()
    return time.perf_counter() - begin, answer


def _loop(p: LCQP, eta: float, iterations: int, delta: float = 0.1, rho: float = 0.5) -> np.ndarray:
    """Return x after plain torch steps with gradients by hand."""
    import torch

    t = p.to_torch(dtype=torch.float64)
    x, y, z = torch.zeros(p.dx).double(), torch.zeros(p.dy).double(), torch.zeros(p.dy).double()
    alpha = (t.b_x @ x + t.a @ y - t.rhs).clamp(max=0)
    beta, u, v = alpha.clone(), torch.zeros(p.dh).double(), torch.zeros(p.dh).double()
    for _ in range(iterations):
        r_y = t.b_x @ x + t.a @ y - t.rhs - alpha
        r_z = t.b_x @ x + t.a @ z - t.rhs - beta
        u = u + 5 * eta * r_y
        v = v + 5 * eta * r_z
        pi_y, pi_z = u + rho * r_y, v + rho * r_z
        g_x = delta * 0.1 * (x - t.x_t) - t.C.T @ y + t.C.T @ z + t.b_x.T @ (pi_y - pi_z)
        g_y = delta * (y - t.y_t) + t.Q @ y - t.C @ x - t.q + t.a.T @ pi_y
        g_z = t.Q @ z - t.C @ x - t.q + t.a.T @ pi_z
        x, y, z = x - eta * g_x, y - eta * g_y, z - eta * g_z
        alpha = (alpha + eta * pi_y).clamp(max=0)
        beta = (beta + eta * pi_z).clamp(max=0)
    return x.numpy()


def _autograd_loop(p: LCQP, eta: float, iterations: int, delta: float = 0.1, rho: float = 0.5) -> np.ndarray:
    """Return x after plain torch steps on the augmented Lagrangian K, differentiated by autograd."""
    import torch

    t = p.to_torch(dtype=torch.float64)

    def g(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return 0.5 * y @ t.Q @ y - (t.C @ x + t.q) @ y

    x, y, z = (torch.zeros(n).double().requires_grad_() for n in (p.dx, p.dy, p.dy))
    with torch.no_grad():
        alpha = (t.b_x @ x + t.a @ y - t.rhs).clamp(max=0)
    beta = alpha.clone().requires_grad_()
    alpha.requires_grad_()
    u, v = torch.zeros(p.dh).double(), torch.zeros(p.dh).double()
    for _ in range(iterations):
        r_y = t.b_x @ x + t.a @ y - t.rhs - alpha
        r_z = t.b_x @ x + t.a @ z - t.rhs - beta
        with torch.no_grad():
            u = u + 5 * eta * r_y
            v = v + 5 * eta * r_z
        f = 0.5 * ((y - t.y_t) ** 2).sum() + 0.05 * ((x - t.x_t) ** 2).sum()
        k = delta * f + g(x, y) - g(x, z) + u @ r_y - v @ r_z + rho / 2 * (r_y @ r_y) - rho / 2 * (r_z @ r_z)
        k_x, k_y, k_z, k_alpha, k_beta = torch.autograd.grad(k, (x, y, z, alpha, beta))
        with torch.no_grad():
            x = (x - eta * k_x).requires_grad_()
            y = (y - eta * k_y).requires_grad_()
            z = (z + eta * k_z).requires_grad_()
            alpha = (alpha - eta * k_alpha).clamp(max=0).requires_grad_()
            beta = (beta + eta * k_beta).clamp(max=0).requires_grad_()
    return x.detach().numpy()
