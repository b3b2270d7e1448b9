"""The conditional VAE: its losses against known answers, its network, its contract."""

from __future__ import annotations

import inspect
import logging
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import trapezoid
from scipy.ndimage import binary_dilation
from scipy.stats import norm
from torch.distributions import Laplace, Normal, kl_divergence

from baselines.cvae.losses import (
    LEAST_SCALE,
    cvae_loss,
    kl_to_others,
    kl_to_prior,
    negative_log_likelihood,
    require_alive,
    watch,
)
from baselines.cvae.method import CVAE
from baselines.cvae.networks import Network, Posterior, Rendered, draw
from harmbench.checks import method_checks
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.training.loop import Diverged
from harmbench.training.process_state import seeded

TINY = {"width": 8, "depth": 1, "grid": 4, "latent_size": 3, "images": 64, "precision": "32-true"}
LEARNING = {"width": 16, "depth": 1, "grid": 8, "images": 3_000, "precision": "32-true"}
DATA = ToyDataset(n=48, shape=(12, 9))


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(**changes):
    sizes = {"latent": "map", "latent_size": 3, "width": 8, "depth": 1, "grid": 4}
    with seeded(0):
        return Network((7, 9), 3, **{**sizes, "adversary": False, **changes})


def context(**changes):
    return FitContext(**{"reference_site": "site-a", **changes})


@pytest.fixture(scope="module")
def cohort():
    return DATA.load()


@pytest.fixture(scope="module")
def tiny(cohort):
    return CVAE(**TINY).fit(cohort, context())


@pytest.fixture(scope="module")
def learned(cohort):
    return CVAE(**LEARNING).fit(cohort, context())


def error_to_truth(cohort, images):
    away = cohort.column("site") != "site-a"
    truth = DATA.truth("site-a", cohort.keys)
    return np.abs(images - truth)[away][cohort.mask[away]].mean()


# Losses -----------------------------------------------------------------------------------------


def test_kl_to_the_prior_is_torchs():
    mean, log_var = random(7, 2, 3), random(7, 2, 3, seed=1)
    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    assert_allclose(kl_to_prior(mean, log_var), expected.sum((1, 2)).mean(), rtol=1e-5)
    assert kl_to_prior(torch.zeros(7, 5), torch.zeros(7, 5)) == 0


@pytest.mark.parametrize("common", [0.0, 1000.0])
def test_kl_to_others_is_torchs_mean_over_all_pairs(common):
    mean, log_var = random(7, 2, 3) + common, 2 * random(7, 2, 3, seed=1) - 3
    each = Normal(mean.double(), (0.5 * log_var.double()).exp())
    pairs = [
        kl_divergence(Normal(each.mean[i], each.stddev[i]), Normal(each.mean[j], each.stddev[j]))
        for i in range(7)
        for j in range(7)
        if i != j
    ]
    expected = torch.stack(pairs).sum((1, 2)).mean()
    assert_allclose(kl_to_others(mean, log_var), expected, rtol=1e-4 if common else 1e-5)


def test_kl_to_others_is_zero_for_equal_posteriors_and_has_a_gradient_otherwise():
    equal = torch.ones(7, 5)
    assert_allclose(kl_to_others(3 * equal, -2 * equal), 0, atol=1e-6)
    mean = random(7, 5).requires_grad_()
    kl_to_others(mean, torch.zeros(7, 5)).backward()
    # Mean over pairs of |mean_i - mean_j|^2 / 2: its gradient is 2 / (n - 1) times the deviation.
    expected = 2 / 6 * (mean - mean.mean(0)).detach()
    assert_allclose(mean.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("distance", [0.5, 2.0, 6.0])
def test_kl_to_others_bounds_what_the_code_says_of_the_site(distance):
    """Two sites, codes N(+-distance / 2, 1): I(z; site) by numerical integration."""
    z = np.linspace(-15, 15, 20_001)
    one, two = (norm.pdf(z, mean) + 1e-300 for mean in (-distance / 2, distance / 2))
    mixture = (one + two) / 2
    information = sum(trapezoid(p * np.log(p / mixture), z) / 2 for p in (one, two))
    mean = torch.tensor([[-distance / 2], [distance / 2]]).repeat(50, 1)
    bound = float(kl_to_others(mean, torch.zeros_like(mean)))
    assert 0 < information < math.log(2) + 1e-3
    assert bound > information


@pytest.mark.parametrize(("likelihood", "density"), [("laplace", Laplace), ("gaussian", Normal)])
def test_likelihood_is_torchs_inside_the_support_and_best_at_the_true_scale(likelihood, density):
    output, images = random(7, 8, 9), random(7, 8, 9, seed=1)
    support = random(7, 8, 9, seed=2) > 0

    def loss(log_scale):
        scale = torch.tensor(log_scale)
        return negative_log_likelihood(output, images, support, scale, likelihood)

    expected = -density(output, math.exp(-0.7)).log_prob(images)[support].mean()
    assert_allclose(loss(-0.7), expected, rtol=1e-5)
    error = (output - images)[support]
    best = error.abs().mean() if likelihood == "laplace" else error.square().mean().sqrt()
    at_best = loss(float(best.log()))
    assert at_best < loss(float(best.log()) + 0.1) and at_best < loss(float(best.log()) - 0.1)
    images[~support] = 99.0
    assert_allclose(loss(-0.7), expected, rtol=1e-5)


def test_loss_is_the_weighted_sum_of_its_parts():
    images = random(4, 7, 9).sigmoid()
    support = torch.ones_like(images, dtype=torch.bool)
    support[:2, :3] = False
    site = torch.tensor([0, 1, 2, 0])
    posterior = Posterior(random(4, 3, 4, 4), random(4, 3, 4, 4, seed=1) - 2)
    output = images + 0.2
    rendered = Rendered(posterior, output, random(4, 3, seed=2), torch.tensor(-2.0))
    weights = {"beta": 0.3, "marginal": 0.7, "adversary": 0.2}
    loss, parts = cvae_loss(rendered, images, support, site, **weights)
    voxels = float(support.sum()) / 4
    expected = 1.7 * parts["reconstruction"] + 0.2 * parts["sites"]
    expected += (0.3 * parts["prior"] + 0.7 * parts["others"]) / voxels
    assert_allclose(loss, expected, rtol=1e-6)
    assert_allclose(parts["mae"], 0.2, rtol=1e-5)
    assert_allclose(parts["scale"], math.exp(-2), rtol=1e-6)
    assert_allclose(parts["outside"], float((output > 1)[support].float().mean()))
    assert parts["sites"] > 0


# Network ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", ["map", "vector"])
def test_any_shape_passes_and_only_the_decoder_knows_the_site(latent):
    net = network(latent=latent)
    images, site = random(5, 7, 9), torch.tensor([0, 1, 2, 0, 1])
    assert net.encode(images).mean.shape == ((5, 3, 4, 4) if latent == "map" else (5, 3, 1, 1))
    rendered = net(images, site, torch.Generator().manual_seed(0))
    assert rendered.output.shape == images.shape and rendered.site_logits is None
    same = net(images, (site + 1) % 3, torch.Generator().manual_seed(0))
    assert torch.equal(rendered.posterior.mean, same.posterior.mean)


def test_a_site_map_acts_at_its_place_and_for_its_site():
    net = network(depth=0)
    code, site = random(2, 3, 4, 4), torch.tensor([0, 1])
    with torch.no_grad():
        before = net.decode(code, site)
        net.site_maps.maps[1, :, :4, :4] = 3.0
        change = (net.decode(code, site) - before).abs()
    assert change[0].max() == 0
    assert change[1, :3, :4].mean() > 2 * change[1, -2:, -2:].mean() > 0


def test_draws_have_the_posteriors_mean_and_deviation():
    posterior = Posterior(torch.full((2, 1, 150, 150), 3.0), torch.full((2, 1, 150, 150), -2.0))
    drawn = draw(posterior, torch.Generator().manual_seed(0))
    assert_allclose(drawn.mean(), 3.0, atol=0.01)
    assert_allclose(drawn.std(), math.exp(-1), atol=0.01)


def test_the_adversary_learns_the_site_and_the_renderer_unlearns_it():
    net = network(adversary=True)
    images, site = random(6, 7, 9), torch.tensor([0, 1, 2] * 2)
    support = torch.ones_like(images, dtype=torch.bool)

    def sites():
        rendered = net(images, site, torch.Generator().manual_seed(0))
        return cvae_loss(rendered, images, support, site)[1]["sites"]

    start = sites()
    start.backward()
    adversary = list(net.adversary.parameters())
    others = [p for n, p in net.named_parameters() if not n.startswith("adversary")]
    for parameters, falls in ((adversary, True), (others, False)):
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            for p in parameters:
                p -= 0.01 * (p.grad if p.grad is not None else 0)
            assert (sites() < start) == falls
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)


# Method -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((7, 9), {}),
        ((16, 16), {"latent": "vector", "likelihood": "gaussian", "adversary": 0.5}),
        ((9, 7), {"render": "difference", "samples": 2, "precision": "bf16-mixed"}),
    ],
)
def test_contract(shape, changes):
    results = method_checks(
        partial(CVAE, **{**TINY, **changes}), ToyDataset(24, shape=shape).load()
    )
    assert {r.name: r.detail for r in results if not r.passed} == {}
    assert len(results) == 17


def test_training_lowers_the_loss_and_harmonizing_the_error_to_the_truth(cohort, learned):
    curve = learned.history
    assert {"images", "loss", "reconstruction", "prior", "others", "mae", "outside"} <= set(curve)
    assert "gradient" in curve and len({len(values) for values in curve.values()}) == 1
    assert curve["mae"][-10:].mean() < 0.5 * curve["mae"][:10].mean()
    raw = error_to_truth(cohort, cohort.images)
    decoded = error_to_truth(cohort, learned.harmonize(cohort, context=ApplyContext()))
    assert decoded < 0.8 * raw


def test_difference_keeps_what_the_code_has_lost_and_is_exact_at_the_own_site(cohort, learned):
    other = CVAE(**LEARNING, render="difference")
    other.__dict__.update({k: v for k, v in vars(learned).items() if k != "render"})
    own = other.harmonize(cohort, OWN_SITE, context=ApplyContext())
    assert_allclose(own, cohort.images, atol=1e-6)
    assert error_to_truth(cohort, other.harmonize(cohort, context=ApplyContext())) < 0.8 * (
        error_to_truth(cohort, cohort.images)
    )
    decoded = learned.harmonize(cohort, OWN_SITE, context=ApplyContext())
    assert np.abs(decoded - cohort.images)[cohort.mask].mean() > 1e-3


def test_nothing_is_rendered_beyond_a_rim_of_one_voxel(cohort, tiny):
    painted = replace(cohort, images=cohort.images + np.float32(0.25))
    changed = tiny.harmonize(painted, context=ApplyContext()) != painted.images
    cross = np.ones((3, 3), dtype=bool)
    grown = np.array([binary_dilation(mask, cross) for mask in cohort.mask])
    assert not changed[~grown].any()
    assert changed[grown].mean() > 0.99


def test_draws_are_shared_by_all_images_follow_the_seed_and_average_out(cohort, tiny):
    def spread(samples, seed):
        method = CVAE(**TINY, samples=samples)
        method.__dict__.update({k: v for k, v in vars(tiny).items() if k != "samples"})
        return method.harmonize(cohort, context=ApplyContext(seed=seed))

    assert_array_equal(spread(2, 0), spread(2, 0))
    few, many = (np.abs(spread(k, 0) - spread(k, 1)).mean() for k in (1, 64))
    assert many < 0.3 * few


def test_an_unseen_site_is_rendered_to_the_target_but_has_no_own_rendering(cohort, tiny):
    sites = np.where(np.arange(len(cohort)) < 3, "site-z", cohort.column("site"))
    strange = cohort.with_covariates(site=sites)
    expected = tiny.harmonize(cohort, context=ApplyContext())
    assert_array_equal(tiny.harmonize(strange, context=ApplyContext()), expected)
    with pytest.raises(HarmbenchError, match="3 scans of: site-z"):
        tiny.harmonize(strange, OWN_SITE, context=ApplyContext())


def test_history_and_inference_arguments_survive_saving(tmp_path, tiny):
    tiny.save(tmp_path)
    again = CVAE.load(tmp_path)
    assert set(again.history) == set(tiny.history) > {"images"}
    for name, values in tiny.history.items():
        assert_array_equal(again.history[name], values)


def test_declared_arguments_exist_and_presets_set_known_ones():
    known = set(inspect.signature(CVAE).parameters)
    assert known > CVAE.budget | CVAE.inference
    assert set(CVAE.presets) == {"smoke", "standard", "paper"}
    assert all(known >= set(preset) for preset in CVAE.presets.values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent": "cube"}, "latent of the cvae 'cube'.*map, vector"),
        ({"likelihood": "poisson"}, "gaussian, laplace"),
        ({"batch_size": 1}, "batch_size is 1; give 2"),
        ({"marginal": -1.0}, "marginal is -1"),
        ({"beta": math.nan}, "beta is nan"),
        ({"scanners": -0.5}, "scanners is -0.5"),
    ],
)
def test_a_wrong_argument_teaches_before_the_training(cohort, changes, words):
    with pytest.raises(HarmbenchError, match=words):
        CVAE(**{**TINY, **changes}).fit(cohort, context())


def test_a_wrong_rendering_shape_or_lone_site_teaches(cohort, tiny):
    wrong = CVAE(**TINY, render="sketch")
    wrong.__dict__.update({k: v for k, v in vars(tiny).items() if k != "render"})
    with pytest.raises(HarmbenchError, match="decode, difference"):
        wrong.harmonize(cohort, context=ApplyContext())
    with pytest.raises(HarmbenchError, match=r"shape \(12, 9\).*\(7, 9\)"):
        tiny.harmonize(ToyDataset(6, shape=(7, 9)).load(), context=ApplyContext())
    lone = cohort.subset(cohort.column("site") == "site-a")
    with pytest.raises(HarmbenchError, match="two sites or more"):
        CVAE(**TINY, adversary=1.0).fit(lone, context())


def test_a_collapsed_training_is_a_failure_with_its_reason(cohort):
    require_alive({"prior": np.array([0.0, 5.0])})
    for nats in (0.0, np.nan):
        with pytest.raises(Diverged, match="collapsed onto the prior"):
            require_alive({"prior": np.array([5.0, nats])})
    net = network()
    watch(logging.getLogger("test"), net, 8)
    with torch.no_grad():
        net.log_scale.fill_(math.log(LEAST_SCALE) - 1)
    with pytest.raises(Diverged, match="likelihood has collapsed"):
        watch(logging.getLogger("test"), net, 8)
    with pytest.raises(Diverged, match="collapsed onto the prior"):
        CVAE(**{**TINY, "images": 1_600, "lr": 0.03, "beta": 1e6}).fit(cohort, context())
    with pytest.raises(Diverged, match="not a finite number"):
        CVAE(**{**TINY, "lr": 1e30}).fit(cohort, context())
