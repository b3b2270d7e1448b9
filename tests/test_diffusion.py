import itertools
import math

import numpy as np
import pytest
import torch

from ddae.diffusion import (
    STEPS,
    angles,
    grid,
    noised,
    solve,
    velocity_from_noise,
    velocity_of,
)

MEAN, STD = 0.7, 0.3


def gaussian_velocity(phi):
    """The exact velocity where the images are normal with MEAN and STD."""

    def velocity(x, time):
        c, s = math.cos(phi[time]), math.sin(phi[time])
        image = MEAN + STD**2 * c * (x - c * MEAN) / (STD**2 * c**2 + s**2)
        noise = (x - c * image) / s if s else torch.zeros_like(x)
        return c * noise - s * image

    return velocity


def exact(x0, phi, time):
    """Where the probability flow takes a normal variable: its quantile stays."""
    c, s = math.cos(phi[time]), math.sin(phi[time])
    return c * MEAN + math.sqrt(STD**2 * c**2 + s**2) * (x0 - MEAN) / STD


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_schedules_go_from_the_image_to_noise(schedule):
    phi = angles(schedule)
    assert len(phi) == STEPS + 1
    assert phi[0] == 0
    assert (phi.diff() > 0).all()
    assert math.cos(phi[-1]) < 0.01


def test_the_linear_schedule_is_the_product_of_alphas():
    betas = np.linspace(1e-4, 0.02, STEPS)
    kept = [math.cos(value) ** 2 for value in angles("linear")[1:].tolist()]
    np.testing.assert_allclose(kept, np.cumprod(1 - betas), atol=1e-12)


def test_noise_image_and_velocity_say_the_same():
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 3, 1, 7, 8, generator=generator, dtype=torch.float64)
    phi = torch.tensor([0.1, 0.8, 1.5], dtype=torch.float64)
    x, v = noised(image, noise, phi), velocity_of(image, noise, phi)
    angle = phi.reshape(3, 1, 1, 1)
    torch.testing.assert_close(angle.cos() * x - angle.sin() * v, image)
    torch.testing.assert_close(velocity_from_noise(x, noise, phi), v)


@pytest.mark.parametrize("sampler", ["ddim", "multistep"])
def test_one_image_and_its_noise_are_followed_without_error(sampler):
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 3, 1, 7, 8, generator=generator, dtype=torch.float64)
    phi = angles("cosine")

    def velocity(x, time):
        return math.cos(phi[time]) * noise - math.sin(phi[time]) * image

    times = grid(7)
    end = solve(velocity, image, times, phi, sampler)
    torch.testing.assert_close(end, noised(image, noise, phi[-1].repeat(3)))
    back = solve(velocity, end, times[::-1], phi, sampler)
    torch.testing.assert_close(back, image)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("multistep", 2)])
@pytest.mark.parametrize("way", ["invert", "render"])
def test_the_error_falls_with_the_order_of_the_sampler(sampler, order, way):
    phi = angles("cosine")
    x0 = torch.tensor([0.2, 0.6, 1.4], dtype=torch.float64)
    errors = []
    for steps in (25, 50, 100):
        times = grid(steps) if way == "invert" else grid(steps)[::-1]
        start, end = exact(x0, phi, times[0]), exact(x0, phi, times[-1])
        got = solve(gaussian_velocity(phi), start, times, phi, sampler)
        errors.append(float((got - end).abs().max()))
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(slopes) > order - 0.35
    assert max(slopes) < order + 0.6


def test_the_higher_order_needs_less_than_half_the_steps():
    phi = angles("cosine")
    x0 = torch.linspace(-0.2, 1.6, 7, dtype=torch.float64)

    def error(sampler, steps):
        times = grid(steps)
        got = solve(gaussian_velocity(phi), x0, times, phi, sampler)
        return float((got - exact(x0, phi, STEPS)).abs().max())

    assert error("multistep", 15) < error("ddim", 40)


def test_the_grid_reaches_from_the_image_to_its_depth():
    assert grid(4) == [0, 250, 500, 750, 1000]
    assert grid(4, depth=0.5) == [0, 125, 250, 375, 500]
    assert grid(4, spacing=2.0) == [0, 62, 250, 562, 1000]
    assert grid(400, depth=0.01) == list(range(11))
