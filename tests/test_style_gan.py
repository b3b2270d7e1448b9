import logging
import os
import signal

import numpy as np
import pytest
import torch

from baselines.style_gan.method import StyleGAN
from baselines.style_gan.networks import Networks, Sizes
from baselines.style_gan.training import Scans, watch
from harmbench.checks import method_checks, toy_cohort
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.training.loop import Diverged

SMALL = {"images": 24, "channels": 4, "style_dim": 3, "precision": "32-true"}
COHORT = toy_cohort(n=24, shape=(16, 20))
APPLY = ApplyContext()


def context(**changes):
    return FitContext(**{"reference_site": "site-a", **changes})


def fitted(cohort=COHORT, told=None, **changes):
    return StyleGAN(**{**SMALL, **changes}).fit(cohort, told or context())


def weights(method):
    return torch.cat([v.flatten() for v in method.generator.state_dict().values()])


@pytest.fixture(scope="module")
def small():
    return fitted()


@pytest.mark.parametrize("shape", [(8, 8), (7, 9)])
def test_it_keeps_the_contract(shape):
    data = ToyDataset(n=12, shape=shape)
    small = {**SMALL, "images": 12, "batch_size": 6}
    results = method_checks(lambda: StyleGAN(**small), data.load(), truth=data.truth)
    assert {r.name: r.detail for r in results if not r.passed} == {}
    assert len(results) == 17


def test_training_learns_to_render():
    def error(images):
        method = fitted(
            images=images, channels=8, batch_size=4, lr=3e-3, mapping_lr=3e-5, ema=0.9, own=50.0
        )
        own = method.harmonize(COHORT, "own", context=APPLY)
        return np.abs(own - COHORT.images)[COHORT.mask].mean()

    assert error(160) < 0.5 * error(8)


def test_training_is_not_told_the_sites(small):
    sites = np.roll(COHORT.column("site"), 1)
    other = fitted(COHORT.with_covariates(site=sites))
    assert torch.equal(weights(other), weights(small))
    assert not torch.equal(other.styles["mean"], small.styles["mean"])


def test_training_does_not_see_the_validation(small):
    held_out = COHORT.keys[:3]
    brighter = COHORT.images.copy()
    brighter[:3] *= 2
    methods = [
        fitted(cohort, context(validation=held_out))
        for cohort in (COHORT, COHORT.with_images(brighter))
    ]
    assert torch.equal(weights(methods[0]), weights(methods[1]))
    assert not torch.equal(weights(methods[0]), weights(small))


def test_everything_held_out_is_an_error():
    with pytest.raises(HarmbenchError, match="none is left"):
        fitted(told=context(validation=COHORT.keys))


def test_styles_are_the_sites_means_and_one_scan_of_theirs(small):
    images = Scans(COHORT, small.sizes).images
    codes = small.encoder(images)
    for i, site in enumerate(small.sites):
        own = codes[torch.from_numpy(COHORT.column("site") == site)]
        torch.testing.assert_close(small.styles["mean"][i], own.mean(0))
        distance = (own - own.mean(0)).norm(dim=1)
        torch.testing.assert_close(small.styles["scan"][i], own[distance.argmin()])


def test_targets_and_styles_give_other_images(small):
    def render(target=None, style="mean"):
        small.style = style
        return small.harmonize(COHORT, target, context=APPLY)

    reference = render()
    assert np.array_equal(reference, render("site-a"))
    assert not np.array_equal(reference, render("site-b"))
    assert not np.array_equal(reference, render("own"))
    assert not np.array_equal(reference, render(style="scan"))
    with pytest.raises(HarmbenchError, match="Known: mean, scan"):
        render(style="median")
    small.style = "mean"


def test_the_difference_keeps_what_renderings_lose(small):
    plain, own = (small.harmonize(COHORT, target, context=APPLY) for target in (None, "own"))
    small.render = "difference"
    moved = small.harmonize(COHORT, context=APPLY)
    assert np.array_equal(small.harmonize(COHORT, "own", context=APPLY), own)
    small.render = "style"
    expected = np.where(COHORT.mask, COHORT.images + plain - own, COHORT.images)
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_own_style_needs_no_site(small):
    stranger = COHORT.only(()).subset([4])
    out = small.harmonize(stranger, "own", context=APPLY)
    assert np.allclose(out, small.harmonize(COHORT, "own", context=APPLY)[[4]], atol=1e-5)


def test_what_lies_outside_the_mask_stays(small):
    images = COHORT.images.copy()
    images[~COHORT.mask] = 0.25
    out = small.harmonize(COHORT.with_images(images), context=APPLY)
    assert (out[~COHORT.mask] == 0.25).all()
    assert not np.isclose(out, images)[COHORT.mask].all()


def test_history_is_kept_and_tells_of_stability(small, tmp_path):
    small.save(tmp_path)
    again = StyleGAN.load(tmp_path).history
    assert again["images"].tolist() == [8, 16, 24]
    for name in ("critic.r1", "latent.gradient", "reference.out-of-range", "latent.cycle"):
        assert np.array_equal(again[name], small.history[name])
        assert np.isfinite(again[name]).all()
    assert (again["latent.gradient"] > 0).all()


def test_saved_files_hold_no_discriminator(small, tmp_path):
    from harmbench.files.models import load_model

    small.save(tmp_path)
    arrays, _ = load_model(tmp_path)
    assert {name.split(".")[0] for name in arrays} == {"generator", "encoder", "styles", "history"}


@pytest.mark.parametrize("fold", [1, 2])
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(tmp_path, fold):
    expected = fitted(fold=fold)

    class CtrlC(logging.Logger):
        def info(self, *args):
            os.kill(os.getpid(), signal.SIGINT)

    told = context(checkpoints=tmp_path, log=CtrlC("gan"))
    with pytest.raises(KeyboardInterrupt):
        fitted(told=told, fold=fold)
    resumed = fitted(told=context(checkpoints=tmp_path), fold=fold)
    assert torch.equal(weights(resumed), weights(expected))
    assert torch.equal(resumed.styles["mean"], expected.styles["mean"])
    for name, values in expected.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)


def test_a_collapsed_training_says_so():
    sizes = Sizes(side=20, channels=4, style=3, fold=2)
    model = Networks(sizes).eval()
    with torch.no_grad():
        model.generator.head.weight.zero_()
    with pytest.raises(Diverged, match="collapsed"):
        watch(model, 100, Scans(COHORT, sizes), logging.getLogger("gan"))


def test_a_diverged_training_says_so():
    with pytest.raises(Diverged, match="not a finite number"):
        fitted(images=80, lr=1e30, clip=0.0)


@pytest.mark.parametrize(
    ("changes", "says"), [({"batch_size": 1}, "give 2 or more"), ({"style": "mode"}, "mean, scan")]
)
def test_wrong_arguments_teach(changes, says):
    with pytest.raises(HarmbenchError, match=says):
        fitted(**changes)


def test_images_of_another_shape_teach(small):
    with pytest.raises(HarmbenchError, match=r"\(16, 20\) .* \(7, 9\)"):
        small.harmonize(toy_cohort(n=3, shape=(7, 9)), context=APPLY)
