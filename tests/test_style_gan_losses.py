import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from baselines.style_gan.losses import Weights, critic_loss, latent_loss, reference_loss
from baselines.style_gan.networks import (
    AdaIN,
    Networks,
    Residual,
    Sizes,
    exponents,
    polynomials,
)
from baselines.style_gan.training import Batches, Scans, phases
from harmbench.checks import toy_cohort
from harmbench.training.loop import train
from harmbench.training.process_state import seeded
from harmbench.training.settings import TrainConfig

SIZES = Sizes(side=16, channels=4, style=3, fold=2)
WEIGHTS = Weights(style=2.0, cycle=30.0, own=7.0, scanners=0.0, r1=0.5)
COHORT = toy_cohort(n=15, shape=(9, 14))


def networks(sizes=SIZES):
    with seeded(0):
        return Networks(sizes)


def generator():
    return torch.Generator().manual_seed(0)


def batches(**changes):
    scans = Scans(COHORT, SIZES)
    return Batches(
        **{"scans": scans, "size": 6, "seed": 0, "steps": 10, "diversity": 0.8} | changes
    )


class Score(nn.Module):
    """A discriminator that is linear in the pixels."""

    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, images):
        return self.slope * images.flatten(1).sum(1, keepdim=True)


# Networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", [1, 2, 4])
@pytest.mark.parametrize("shape", [(7, 9), (40, 33), (64, 64)])
def test_images_come_back_in_their_shape(fold, shape):
    sizes = Sizes(side=max(shape), channels=4, style=3, fold=fold)
    cohort = toy_cohort(n=2, sites=2, shape=shape)
    scans, model = Scans(cohort, sizes), networks(sizes)
    style = model.style(scans.images)
    rendered = model.render(scans.images, style, scans.mask)
    assert style.shape == (2, 3)
    assert rendered.shape == scans.images.shape
    assert all(side % sizes.multiple == 0 for side in scans.images.shape[-2:])
    assert torch.equal(rendered[~scans.mask], scans.images[~scans.mask])
    assert not torch.equal(rendered, scans.images)


def test_the_bottleneck_is_that_of_the_paper():
    assert Sizes(side=256, channels=64, style=64, fold=1).halvings(16) == 4
    assert Sizes(side=128, channels=64, style=64, fold=1).halvings(16) == 3
    assert Sizes(side=64, channels=24, style=64, fold=2).halvings(16) == 1
    assert Sizes(side=256, channels=64, style=64, fold=1).widths(4) == [64, 128, 256, 512, 512]


def test_adain_gives_every_map_the_mean_and_deviation_of_the_style():
    with seeded(1):
        norm, x, style = AdaIN(5, 3, 0), torch.randn(2, 5, 11, 12), torch.randn(2, 3)
    scale, shift = norm.affine(style).chunk(2, dim=1)
    out = norm(x, style)
    torch.testing.assert_close(out.mean((2, 3)), shift, atol=1e-4, rtol=1e-4)
    deviation = out.std((2, 3), correction=0)
    torch.testing.assert_close(deviation, (1 + scale).abs(), atol=1e-4, rtol=1e-4)
    # What was the map's own gain and offset is gone.
    torch.testing.assert_close(norm(3 * x - 1, style), out, atol=1e-4, rtol=1e-4)


def test_a_style_with_a_place_is_a_polynomial_of_the_place():
    with seeded(1):
        norm, x = AdaIN(5, 3, 1), torch.randn(2, 5, 11, 12)
    nn.init.zeros_(norm.affine.weight)
    # Terms are 1, column, row; only the shift of map 4 moves, by 2 along the columns.
    nn.init.zeros_(norm.affine.bias)
    with torch.no_grad():
        norm.affine.bias.view(10, 3)[5 + 4, 1] = 2.0
    plain, out = nn.functional.instance_norm(x), norm(x, torch.zeros(2, 3))
    ramp = 2 * torch.linspace(-1, 1, 12).expand(11, 12)
    torch.testing.assert_close(out[:, 4] - plain[:, 4], ramp.expand(2, 11, 12))
    torch.testing.assert_close(out[:, :4], plain[:, :4])


def test_there_are_as_many_terms_as_a_polynomial_of_two_variables_has():
    assert [len(exponents(degree)) for degree in range(4)] == [1, 3, 6, 10]
    terms = polynomials(2, torch.zeros(1, 1, 3, 5))
    assert terms.shape == (6, 3, 5)
    assert torch.equal(terms[0], torch.ones(3, 5))


@pytest.mark.parametrize("scale", [0.5, 1, 2])
def test_a_block_of_zeros_is_its_shortcut(scale):
    with seeded(1):
        block, x = Residual(3, 5, scale=scale), torch.randn(2, 3, 6, 8)
    nn.init.zeros_(block.second.weight)
    nn.init.zeros_(block.second.bias)
    first = block.skip(x)  # before resampling, where the block does it after or before
    expected = nn.functional.interpolate(first, scale_factor=scale, mode="area") / math.sqrt(2)
    torch.testing.assert_close(block(x), expected)


# Losses -----------------------------------------------------------------------------------------


def test_the_penalty_is_half_the_squared_gradient_on_real_images():
    model, batch = networks(), batches()(0)
    model.discriminator = Score(0.01)
    loss, parts = critic_loss(model, batch, generator(), WEIGHTS)
    pixels = batch.images[0].numel()
    assert parts["r1"].item() == pytest.approx(0.5 * pixels * 0.01**2, rel=1e-4)
    expected = parts["real"] + parts["fake"] + 0.5 * parts["r1"]
    assert loss.item() == pytest.approx(expected.item())


def test_a_blind_discriminator_loses_two_bits():
    model = networks()
    model.discriminator = Score(0.0)
    loss, _ = critic_loss(model, batches()(0), generator(), WEIGHTS)
    assert loss.item() == pytest.approx(2 * math.log(2))


def test_a_good_discriminator_pays_less_than_a_bad_one():
    model, batch = networks(), batches()(0)
    dark = batch._replace(images=torch.full_like(batch.images, -1.0))

    def loss(slope):
        model.discriminator = Score(slope)
        return critic_loss(model, dark, generator(), Weights(0.0, 0.0, 0.0, 0.0, 0.0))[0].item()

    model.render = lambda images, style, mask: torch.ones_like(images)
    assert loss(-0.01) < loss(0.0) < loss(0.01)


@pytest.mark.parametrize("loss_of", [latent_loss, reference_loss])
def test_the_generators_loss_is_the_weighted_sum_of_its_parts(loss_of):
    loss, parts = loss_of(networks(), batches()(5), generator(), WEIGHTS)
    expected = (
        parts["adversarial"]
        + 2.0 * parts["style"]
        + 30.0 * parts["cycle"]
        + 7.0 * parts["own"]
        - 0.4 * parts["diversity"]
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert parts["diversity"] > 0


def test_a_generator_that_does_nothing_repeats_images_perfectly():
    model = networks()
    model.render = lambda images, style, mask: images
    batch = batches()(0)
    _, parts = reference_loss(model, batch, generator(), WEIGHTS)
    assert parts["cycle"] == parts["own"] == parts["diversity"] == 0
    codes = model.style(batch.references[0, 3:]), model.style(batch.images[3:])
    assert parts["style"].item() == pytest.approx((codes[0] - codes[1]).abs().mean().item())


def test_the_own_rendering_sees_the_content_through_another_scanner():
    model, batch, seen = networks(), batches()(0), []
    model.render = lambda images, style, mask: seen.append(images) or images
    for scanners in (0.0, 1.0):
        reference_loss(model, batch, generator(), replace(WEIGHTS, scanners=scanners))
    plain, other = seen[2], seen[-2]
    rows = batch.images[3:]
    assert torch.equal(plain, rows)
    assert not torch.equal(other, rows)
    # What is background for the suite stays background.
    assert (other[rows == -1] == -1).all()


def test_out_of_range_counts_the_mask_only():
    model, batch = networks(), batches()(0)
    mask = torch.zeros_like(batch.mask)
    mask[..., :4, :5] = True
    batch = batch._replace(mask=mask)
    model.render = lambda images, style, mask: torch.where(mask, 1.5, 2.5).expand_as(images)
    _, parts = reference_loss(model, batch, generator(), WEIGHTS)
    assert parts["out-of-range"] == 1


def test_no_diversity_no_second_rendering():
    model, batch, seen = networks(), batches(diversity=0.0)(0), []
    render = model.render
    model.render = lambda *args: seen.append(0) or render(*args)
    _, parts = latent_loss(model, batch, generator(), WEIGHTS)
    assert "diversity" not in parts
    assert len(seen) == 3


# Training ---------------------------------------------------------------------------------------


def test_batches_are_a_function_of_the_step_and_diversity_decays():
    first, again = batches(), batches()
    assert [first(step).diversity for step in range(10)] == pytest.approx(
        [0.8 * (1 - step / 10) for step in range(10)]
    )
    for a, b in zip(first(7), again(7), strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    batch = first(7)
    assert not torch.equal(batch.images, batch.references[0])
    assert not torch.equal(batch.references[0], batch.references[1])


def test_every_network_is_moved_in_its_own_turn_only():
    model = networks()
    initial = {name: value.clone() for name, value in model.state_dict().items()}

    def moved(turn):
        model.load_state_dict(initial)
        config = TrainConfig(images=6, batch_size=6, lr=1e-3)
        train(model, [phases(model, WEIGHTS, 1e-3)[turn]], batches(), config, seed=0)
        now = model.state_dict()
        return {name.split(".")[0] for name in now if not torch.equal(now[name], initial[name])}

    assert moved(0) == {"discriminator"}
    assert moved(1) == {"generator", "style", "mapping"}
    assert moved(2) == {"generator"}


def test_the_mapping_network_has_its_own_rate():
    latent = phases(networks(), WEIGHTS, mapping_lr=1e-6)[1]
    assert [group.get("lr") for group in latent.parameters] == [None, None, 1e-6]


def test_scans_are_padded_with_background():
    scans = Scans(COHORT, SIZES)
    assert scans.images.shape == (15, 1, 12, 16)
    assert (scans.images[:, :, 9:] == -1).all()
    assert not scans.mask[:, :, :, 14:].any()
    back = (scans.images[:, 0, :9, :14].numpy() + 1) / 2
    assert abs(back - COHORT.images).max() < 1e-6
