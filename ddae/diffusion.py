"""The diffusion process: noise schedules and deterministic samplers, pure functions of arrays.

Everything is told by an angle: ``x_t = cos(phi_t) x_0 + sin(phi_t) noise``, with
``cos(phi_t)^2`` the schedule's product of alphas. A prediction of the noise, of the image or of the
velocity ``v = cos(phi) noise - sin(phi) x_0`` (Salimans 2022, arXiv 2202.00512) says the same, and
the probability flow is ``dx / dphi = v``. Both samplers run both ways: with falling times they
render, with rising times they invert (Song 2020, arXiv 2010.02502).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

STEPS = 1000
"""Length T of the forward process."""

Schedule = Literal["linear", "cosine"]
Sampler = Literal["ddim", "multistep"]
Velocity = Callable[[Tensor, int], Tensor]
"""``velocity(x, time)``: the predicted velocity at every image of `x`."""


def angles(schedule: Schedule) -> Tensor:
    """Return the angle of every time, rising from 0.

    Parameters
    ----------
    schedule : {"linear", "cosine"}
        Betas from 1e-4 to 0.02 (Ho 2020, arXiv 2006.11239), or the angle itself rising evenly,
        nearly the schedule of Nichol 2021 (arXiv 2102.09672).

    Returns
    -------
    Tensor of float64, shape (STEPS + 1,)
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
    """Return the velocity that a predicted noise means at `x`: ``(noise - sin(phi) x) / cos(phi)``.

    Parameters
    ----------
    x, noise : Tensor, shape (n, ...)
    phi : Tensor, shape (n,)
        Below a quarter turn.
    """
    phi = _per_image(phi, x)
    return (noise - phi.sin() * x) / phi.cos()


def image_of(x: Tensor, velocity: Tensor, phi: Tensor) -> Tensor:
    """Return the noise-free image that a velocity means at `x`: ``cos(phi) x - sin(phi) v``."""
    phi = _per_image(phi, x)
    return phi.cos() * x - phi.sin() * velocity


def grid(steps: int, depth: float = 1.0, spacing: float = 1.0) -> list[int]:
    """Return the times between which a sampler steps, rising from 0.

    Images vary little around what the latents say of them, so the flow bends most where there is
    little noise: steps that are shorter there spare half of them.

    Parameters
    ----------
    steps : int
        Number of steps, one network evaluation each; 1 to `STEPS`.
    depth : float
        Share of the process to go through, over 0 to 1.
    spacing : float
        Power of the share of the steps that a time is proportional to: 1 for even steps.

    Returns
    -------
    list of int
        Steps that would be shorter than one time are left out.
    """
    times = [round(depth * STEPS * (i / steps) ** spacing) for i in range(steps + 1)]
    return sorted(set(times))


def solve(
    velocity: Velocity,
    x: Tensor,
    times: Sequence[int],
    phi: Tensor,
    sampler: Sampler,
) -> Tensor:
    """Follow the probability flow through the given times.

    Within a step of angle d, ``ddim`` keeps the predicted image and noise, which is a rotation:
    ``x' = cos(d) x + sin(d) v``. ``multistep`` also uses how the velocity has departed from that
    rotation since the step before, ``r = v' + x``, and adds ``(1 - cos(d)) r``: second order at
    the same cost, in the manner of DPM-Solver++ 2M (Lu 2022, arXiv 2211.01095), but without a
    singularity at either end, so that it inverts as well as it renders.

    Parameters
    ----------
    velocity : callable
        ``velocity(x, time)``, evaluated once in every step.
    x : Tensor, shape (n, ...)
        At ``times[0]``.
    times : sequence of int
        Rising (inverting) or falling (rendering).
    phi : Tensor, shape (STEPS + 1,)
        See `angles`.
    sampler : {"ddim", "multistep"}

    Returns
    -------
    Tensor, shape (n, ...)
        At ``times[-1]``.
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
            # r at the middle of the step before, taken on to the middle of this one, is first
            # order in r, second order in x.
            x = x + (1 - math.cos(step)) * bend
    return x


def _per_image(phi: Tensor, images: Tensor) -> Tensor:
    return phi.to(images.dtype).reshape(-1, *[1] * (images.ndim - 1))
