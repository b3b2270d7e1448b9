"""Made-up scanners: what they change, what they leave, and whose randomness they use."""

from __future__ import annotations

import torch

from harmbench.data.toy import ToyDataset
from harmbench.training.scanners import random_scanner


def heads():
    return torch.from_numpy(ToyDataset(12, shape=(8, 9)).load().images).clamp(0, 1).unsqueeze(1)


def seen(images, strength, seed=0):
    return random_scanner(images, strength, torch.Generator().manual_seed(seed))


def test_no_strength_changes_nothing():
    torch.testing.assert_close(seen(heads(), 0.0), heads(), atol=1e-6, rtol=0)


def test_more_strength_changes_more_and_the_background_stays_empty():
    images = heads()
    changes = [(seen(images, strength) - images).abs().mean() for strength in (0.2, 1.0, 2.0)]
    assert 0 < changes[0] < changes[1] < changes[2]
    assert not seen(images, 2.0)[images == 0].any()


def test_every_image_has_a_scanner_of_its_own_that_follows_the_generator():
    twins = heads()[:1].expand(2, -1, -1, -1).clone()
    first, second = seen(twins, 1.0)
    assert (first - second).abs().max() > 0.01
    assert torch.equal(seen(twins, 1.0), seen(twins, 1.0))
    assert not torch.equal(seen(twins, 1.0), seen(twins, 1.0, seed=1))


def test_anatomy_stays_what_it_is():
    images = heads()
    inside = images > 0
    for image, other, here in zip(images, seen(images, 0.5), inside, strict=True):
        assert torch.corrcoef(torch.stack([image[here], other[here]]))[0, 1] > 0.6
