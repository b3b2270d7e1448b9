"""The diffusion process: noise schedules and deterministic samplers, as pure functions.

The process is parametrized by an angle: ``x_t = cos(phi_t) x_0 + sin(phi_t) noise``, where
``cos(phi_t)^2`` is the product of alphas. Predictions of the noise, of the image and of the
velocity ``v = cos(phi) noise - sin(phi) x_0`` (Salimans 2022, arXiv 2202.00512) are equivalent, and
the probability flow is ``dx / dphi = v``. Both samplers work in both directions: with decreasing
times they render, with increasing times they invert (Song 2020, arXiv 2010.02502).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

STEPS = 1000
"""Number of steps T of the forward process."""

Schedule = Literal["linear", "cosine"]
Sampler = Literal["ddim", "multistep"]
Velocity = Callable[[Tensor, int], Tensor]
"""``velocity(x, time)`` returns the predicted velocity for the images `x`."""


def angles(schedule: Schedule) -> Tensor:
    """Return the angle of every time as float64, shape (STEPS + 1,), increasing from 0.

    Parameters
    ----------
    schedule : {"linear", "cosine"}
        Linear betas from 1e-4 to 0.02 (Ho 2020, arXiv 2006.11239), or linear angles, which are
        similar to the schedule of Nichol 2021 (arXiv 2102.09672).
    """
    if schedule == "cosine":
        return torch.linspace(0, 0.999 * math.pi / 2, STEPS + 1, dtype=torch.float64)
    betas = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
    kept = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])
    return torch.acos(kept.sqrt())


def noised(images: Tensor, noise: Tensor, phi: Tensor) -> Tensor:
    """Return ``cos(phi) images + sin(phi) noise``, with one angle per image, shape (n,)."""
    phi = _per_image(phi, images)
    return phi.cos() * images + phi.sin() * noise


def velocity_of(images: Tensor, noise: Tensor, phi: Tensor) -> Tensor:
    """Return ``cos(phi) noise - sin(phi) images``, with one angle per image, shape (n,)."""
    phi = _per_image(phi, images)
    return phi.cos() * noise - phi.sin() * images


def velocity_from_noise(x: Tensor, noise: Tensor, phi: Tensor) -> Tensor:
    """Return ``(noise - sin(phi) x) / cos(phi)``, the velocity for a predicted noise at `x`."""
    phi = _per_image(phi, x)
    return (noise - phi.sin() * x) / phi.cos()


def grid(steps: int, depth: float = 1.0, spacing: float = 1.0) -> list[int]:
    """Return the times of a sampler's steps, increasing from 0, without duplicates.

    The latents determine most of an image, so the flow is most curved where there is little noise.
    With shorter steps there, half of the steps are sufficient.

    Parameters
    ----------
    steps : int
        Number of steps with one network evaluation each, from 1 to `STEPS`.
    depth : float
        Share of the process, greater than 0 and at most 1.
    spacing : float
        Exponent of the times as a function of the steps; 1 for equal steps.
    """
    times = [round(depth * STEPS * (i / steps) ** spacing) for i in range(steps + 1)]
    return sorted(set(times))


def solve(
    velocity: Velocity, x: Tensor, times: Sequence[int], phi: Tensor, sampler: Sampler
) -> Tensor:
    """Follow the probability flow from `x` at the first time to the last time.

    In a step of angle d, ``ddim`` keeps the predicted image and noise, which is a rotation:
    ``x' = cos(d) x + sin(d) v``. ``multistep`` also uses the deviation of the velocity from that
    rotation since the previous step, ``r = v' + x``, and adds ``(1 - cos(d)) r``. This is second
    order at the same cost, like DPM-Solver++ 2M (Lu 2022, arXiv 2211.01095), but has no singularity
    at either end, so that it can also invert.

    Parameters
    ----------
    velocity : callable
        ``velocity(x, time)``, evaluated once per step.
    x : Tensor, shape (n, ...)
    times : sequence of int
        Increasing to invert, decreasing to render.
    phi : Tensor, shape (STEPS + 1,)
        See `angles`.
    sampler : {"ddim", "multistep"}
    """
    bend: Tensor | None = None
    before: tuple[Tensor, Tensor, float] | None = None
    for now, then in itertools.pairwise(times):
        step = float(phi[then] - phi[now])
        v = velocity(x, now)
        if sampler == "multistep" and before is not None:
            x_before, v_before, past = before
            straight = math.cos(past) * v_before - math.sin(past) * x_before
            bend = (v - straight) / math.sin(past)
        before = (x, v, step)
        x = math.cos(step) * x + math.sin(step) * v
        if bend is not None:
            # Taking r from the middle of the previous step is first order in r and second order
            # in x.
            x = x + (1 - math.cos(step)) * bend
    return x


def _per_image(phi: Tensor, images: Tensor) -> Tensor:
    return phi.to(images.dtype).reshape(-1, *[1] * (images.ndim - 1))
