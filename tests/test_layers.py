import pytest
import torch

from harmbench.training.layers import (
    ConditionedBlock,
    GroupedConv,
    GroupedLinear,
    SelfAttention,
    for_inference,
    space_to_depth,
)


@pytest.mark.parametrize(("shape", "block"), [((64, 64), 4), ((32, 32), 2), ((37, 20), 3)])
def test_space_to_depth_keeps_every_pixel_once(shape, block):
    images = torch.arange(2 * shape[0] * shape[1], dtype=torch.float32).reshape(2, 1, *shape) + 1
    folded = space_to_depth(images, 16)
    assert folded.shape == (2, block * block, 16, 16)
    for image, values in zip(images, folded, strict=True):
        kept = values.flatten()[values.flatten() > 0].sort().values
        torch.testing.assert_close(kept, image.flatten())


def test_space_to_depth_keeps_place():
    images = torch.zeros(1, 1, 64, 64)
    images[0, 0, 9, 22] = 1
    channel, row, column = torch.nonzero(space_to_depth(images, 16)[0])[0].tolist()
    assert (row, column) == (9 // 4, 22 // 4)
    assert channel == 4 * (9 % 4) + 22 % 4


def test_space_to_depth_is_torchs_pixel_unshuffle():
    images = torch.randn(3, 2, 30, 29, generator=torch.Generator().manual_seed(0))
    folded = space_to_depth(images, 16)
    padded = torch.nn.functional.pad(images, (0, 3, 0, 2)).flatten(0, 1)[:, None]
    expected = torch.nn.functional.pixel_unshuffle(padded, 2).unflatten(0, (3, 2)).flatten(1, 2)
    torch.testing.assert_close(folded, expected, rtol=0, atol=0)
    assert folded.is_contiguous(memory_format=torch.channels_last)


def test_a_network_for_inference_gives_what_it_gave():
    torch.manual_seed(0)
    network = torch.nn.Sequential(ConditionedBlock(4, 8), SelfAttention(8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(5, 4, 8, 6)
    expected = network.eval()(x).detach()
    torch.testing.assert_close(for_inference(network)(x), expected, rtol=1e-5, atol=1e-5)
    assert not network[0].first[2].weight.is_contiguous()
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_grouped_conv_never_mixes_networks():
    layer = GroupedConv(3, 2, 5).eval()
    x = torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 2:4] += 1
    moved = (layer(x) != layer(changed)).any(dim=0).any(dim=-1).any(dim=-1)
    assert moved[5:10].any()
    assert not moved[:5].any() and not moved[10:].any()


def test_grouped_linear_is_one_linear_layer_a_group():
    layer = GroupedLinear(3, 7, 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.normal_(generator=generator)
        layer.bias.normal_(generator=generator)
    x = torch.randn(5, 3, 7, generator=generator)
    for g in range(3):
        expected = x[:, g] @ layer.weight[g] + layer.bias[g]
        torch.testing.assert_close(layer(x)[:, g], expected)
