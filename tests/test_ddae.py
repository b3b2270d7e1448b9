"""The DDAE: the contract, its options, and that it does what it is for on a toy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ddae.diagnostics import codes, site_probe
from ddae.labels import UNKNOWN_SEX, LabelCoding
from ddae.method import DDAE, ddae_blind
from ddae.networks import DDAENetwork, Shape
from ddae.objective import Objective, stratified_times
from harmbench.checks import method_checks, toy_cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.errors import HarmbenchError

TINY = {
    "images": 32,
    "batch_size": 8,
    "channels": 8,
    "multipliers": (1, 2),
    "attention": 4,
    "known": 6,
    "unknown": 7,
    "steps": 2,
    "precision": "32-true",
}
SHAPE = Shape((18, 21), 8, (1, 2), blocks=1, patch=2, attention=6, dropout=0.0)


def fitted(factory=DDAE, cohort=None, **params):
    cohort = toy_cohort() if cohort is None else cohort
    context = FitContext(reference_site=cohort.sites[0], seed=3)
    return factory(**(TINY | params)).fit(cohort, context)


def network(**params):
    options = {
        "known": 6,
        "unknown": 7,
        "merge": "separate",
        "kappa_std": 0.0,
        "code_map": 0,
        "map_level": 0,
        "adversary": False,
    }
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(0)
        return DDAENetwork(SHAPE, 3, **(options | params))


def batch(n=8):
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.rand(n, 1, 18, 21, generator=generator),
        "age": torch.randn(n, generator=generator),
        "sex": torch.arange(n) % 2,
        "site": torch.arange(n) % 3,
        "weight": torch.ones(n),
    }


@pytest.mark.parametrize("factory", [DDAE, ddae_blind])
def test_it_keeps_the_contract(factory):
    results = method_checks(lambda: factory(**TINY))
    assert [r for r in results if not r.passed] == []


@pytest.mark.parametrize(
    "params",
    [
        {"merge": "project", "prediction": "noise", "schedule": "linear", "sampler": "ddim"},
        {"merge": "sum", "kappa_std": 0.1, "code": "random"},
        {"code_map": 3, "adversary": 0.1, "scanners": 1.0, "code": "shared", "depth": 0.5},
        {"balance": True, "operator": 2, "untold": 0.5, "blind": True},
        {"patch": 1, "images": 8},
    ],
    ids=lambda params: "-".join(params),
)
def test_every_option_trains_and_renders(params):
    cohort = toy_cohort()
    method = fitted(cohort=cohort, **params)
    images = method.harmonize(cohort, context=ApplyContext())
    assert np.isfinite(images).all()
    assert np.abs(images - cohort.images).max() > 1e-3
    curve = method.history
    assert curve["images"][-1] == (TINY | params)["images"]
    assert ("site" in curve) == ("adversary" in params)


def test_blind_gives_the_same_whatever_age_and_sex_are():
    cohort = toy_cohort()
    other = cohort.with_covariates(
        age=cohort.column("age")[::-1], sex=np.where(cohort.column("sex") == "F", "M", "F")
    )
    for factory, same in ((DDAE, False), (ddae_blind, True)):
        method = fitted(factory, cohort)
        told = [method.harmonize(c, context=ApplyContext()) for c in (cohort, other)]
        assert np.array_equal(*told) == same
    assert method.info.harmonize_sees == {"site"}


def test_trained_longer_it_moves_a_site_towards_the_reference():
    """Sites of the toy differ by a factor; a minute of nothing would leave them where they are."""
    cohort = toy_cohort(n=90, sites=2)
    method = fitted(
        cohort=cohort, images=3_000, channels=16, lr=2e-3, ema=0.99, steps=6, batch_size=16
    )
    sites, mask = cohort.column("site"), cohort.mask

    def level(images, site):
        return images[sites == site][mask[sites == site]].mean()

    reference, other = cohort.sites
    before = abs(level(cohort.images, other) - level(cohort.images, reference))
    out = method.harmonize(cohort, context=ApplyContext())
    after = abs(level(out, other) - level(out, reference))
    own = method.harmonize(cohort, "own", context=ApplyContext())
    assert after < 0.5 * before
    assert np.abs(own - cohort.images)[mask].mean() < 0.5 * before
    loss = method.history["error"]
    assert loss[-5:].mean() < 0.5 * loss[:5].mean()


def test_weighted_sites_have_one_population():
    cohort = toy_cohort(n=300)
    rng = np.random.default_rng(0)
    shift = {site: 12.0 * i for i, site in enumerate(cohort.sites)}
    age = rng.normal(50, 10, len(cohort)) + [shift[s] for s in cohort.column("site")]
    cohort = cohort.with_covariates(age=age)
    weights = LabelCoding.learn(cohort).balance(cohort)
    assert weights.mean() == pytest.approx(1)

    def spread(weights):
        sites = cohort.column("site")
        means = [np.average(age[sites == s], weights=weights[sites == s]) for s in shift]
        return max(means) - min(means)

    assert spread(weights) < 0.5 * spread(np.ones(len(age)))


def test_missing_labels_are_the_fits_own():
    cohort = toy_cohort()
    coding = LabelCoding.learn(cohort)
    age, sex = cohort.column("age").astype(float), cohort.column("sex").astype(object)
    age[1], sex[2] = np.nan, None
    holes = cohort.with_covariates(age=age, sex=sex)
    log = ApplyContext().log
    values = coding.tensors(holes, None, True, log)
    expected = (np.median(cohort.column("age").astype(float)) - coding.age_mean) / coding.age_std
    assert float(values["age"][1]) == pytest.approx(expected, abs=1e-5)
    assert int(values["sex"][2]) in (0, 1)
    untold = coding.tensors(holes, cohort.sites[1], False, log)
    assert torch.isnan(untold["age"]).all()
    assert set(untold["sex"].tolist()) == {UNKNOWN_SEX}
    assert set(untold["site"].tolist()) == {1}
    with pytest.raises(HarmbenchError, match="nowhere"):
        coding.tensors(holes, "nowhere", True, log)


def test_times_are_spread_evenly():
    times = stratified_times(10, torch.Generator().manual_seed(1))
    assert sorted((times - 1) // 100) == list(range(10)) or len(set((times // 100).tolist())) >= 9
    assert 1 <= int(times.min()) <= int(times.max()) <= 1000


def test_the_adversary_turns_the_encoders_gradient_round():
    """With reversal the encoder climbs the site loss that the critic descends."""
    net = network(adversary=True, code_map=3, map_level=1)
    one = batch()
    grads = []
    for weight in (0.0, 1.0):
        net.zero_grad()
        objective = Objective("velocity", "cosine", weight, 0.0, 0.0)
        loss, parts = objective(net, one, torch.Generator().manual_seed(0))
        loss.backward()
        grads.append(net.encoder.latent.weight.grad.clone())
    z, extra = net.encoder(2 * one["image"] - 1)
    z = z.detach().requires_grad_(True)
    climbs = torch.autograd.grad(
        torch.nn.functional.cross_entropy(net.critic(z, extra.detach()), one["site"]), z
    )[0]
    turned = grads[1] - grads[0]
    # The gradient of the latent's last layer is climbs^T times its input, with the other sign.
    assert float((turned.sum(1) * -climbs.sum(0)).sum()) > 0
    assert set(parts) == {"error", "site"}


def test_labels_untold_reach_the_network_as_nothing():
    objective = Objective("velocity", "cosine", 0.0, 0.0, 0.5)
    told = objective._labels(batch(400), torch.Generator().manual_seed(0))
    hidden = torch.isnan(told["age"])
    assert 0.4 < float(hidden.float().mean()) < 0.6
    assert torch.equal(hidden, told["sex"] == UNKNOWN_SEX)


@pytest.mark.parametrize("merge", ["project", "sum", "separate"])
def test_the_prediction_depends_on_both_latents(merge):
    net = network(merge=merge).eval()
    with torch.no_grad():
        for parameter in net.unet.parameters():
            parameter.add_(0.05)
        one = batch(2)
        x, times = one["image"], torch.tensor([10, 500])
        labels = {name: one[name] for name in ("age", "sex", "site")}
        z, extra = net.encoder(x)
        plain = net.predict(x, times, z, extra, labels)
        other_image = net.predict(x, times, z + 1, extra, labels)
        other_site = net.predict(x, times, z, extra, labels | {"site": (one["site"] + 1) % 3})
    assert plain.shape == x.shape
    assert float((plain - other_image).abs().max()) > 1e-6
    assert float((plain - other_site).abs().max()) > 1e-6


def test_a_reference_site_that_is_not_there_is_named():
    with pytest.raises(HarmbenchError, match="nowhere"):
        DDAE(**TINY).fit(toy_cohort(), FitContext(reference_site="nowhere"))


def test_it_says_what_it_needs():
    cohort = toy_cohort()
    assert DDAE().skip(cohort) is None
    bare = replace(cohort, participants=cohort.participants.drop(columns=["age"]))
    assert "age" in DDAE().skip(bare)


def test_the_probe_finds_a_site_that_is_there_and_none_that_is_not():
    rng = np.random.default_rng(0)
    site = np.array(["a", "b", "c"])[np.arange(240) % 3]
    there = rng.standard_normal((240, 9)).astype("f4")
    there[:, 0] += 4 * (np.arange(240) % 3)
    gone = rng.standard_normal((240, 9)).astype("f4")
    half = slice(0, 120), slice(120, None)
    found, chance = (
        site_probe(code[half[0]], site[half[0]], code[half[1]], site[half[1]])
        for code in (there, gone)
    )
    assert found > 0.85
    assert chance < 0.5


def test_codes_are_one_row_an_image():
    cohort = toy_cohort(n=40)
    method = fitted(ddae_blind, cohort, code_map=3)
    found = codes(method, cohort, ApplyContext())
    assert found["latent"].shape == (40, 7)
    assert found["noise"].shape == (40, 1, 16, 16)
    assert found["map"].shape[:2] == (40, 3)


def test_validation_rows_are_left_out_and_decide():
    cohort = toy_cohort()
    held = [key for i, key in enumerate(cohort.keys) if i % 6 == 0]
    context = FitContext(reference_site=cohort.sites[0], seed=3, validation=held)
    kept = DDAE(**TINY).fit(cohort, context)
    assert np.isfinite(kept.history["validation"]).any()
    assert len(kept.history["validation"]) == len(kept.history["images"])
    rows, aside = kept._split(cohort, context)
    assert (len(rows), len(aside)) == (50, 10)
    without = DDAE(**TINY, validate=False).fit(cohort, context)
    assert "validation" not in without.history
