"""Features of images for distances and mixing: a fixed random network, and Inception.

`random-conv` is a small convolutional network with fixed random weights, so it is always available.
Naeem 2020 (arXiv 2002.09797, section 4) finds that features of a randomly initialized network rank
generators as well as those of a network trained on ImageNet, and better for images that are not
natural. `inception` is pytorch-fid's InceptionV3, see `harmbench.protocol.features.inception`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import Product, ProductContext, ProductUnavailable
from harmbench.protocol.features.inception import load_inception
from harmbench.seeding import rng_from

if TYPE_CHECKING:
    import torch

Extractor = Literal["random-conv", "inception"]

DIMENSIONS: dict[Extractor, int] = {"random-conv": 512, "inception": 2048}

MIN_SIZE = 16

# Mean and standard deviation of each map of each layer: 2 * (64 + 96 + 96) = 512 features. The last
# layer alone depends more on individual anatomy than on the scanner, and prefers a slight blur; the
# first layer, at full resolution, depends on sharpness and noise.
_CHANNELS = (64, 96, 96)
_STRIDES = (1, 2, 2)
_SLOPE = 0.2  # of the leaky ReLU; with a plain ReLU a third of the features is 0 in every image
_WEIGHTS_VERSION = 1
_BATCH: dict[Extractor, int] = {"random-conv": 128, "inception": 16}
_BATCH_PIXELS = 8 * 64 * 64
"""Largest number of pixels in a batch of `random-conv`, so that its maps fit into the CPU cache."""


def extract(images: NDArray[np.float32], extractor: Extractor, context: ProductContext) -> NDArray:
    """Return the features of 2-D images.

    Parameters
    ----------
    images : ndarray of float32, shape (n, h, w)
        At least 16 x 16 pixels. Values are clipped to [0, 1] for both extractors.
    extractor : {"random-conv", "inception"}
    context : ProductContext
        Device, threads, and the file of the Inception weights.

    Returns
    -------
    ndarray of float32, shape (n, d)
        d = 512 or 2048. Row i depends only on image i, up to float32 rounding.

    Raises
    ------
    ProductUnavailable
        If the images are not 2-D or too small, or there are no Inception weights.
    """
    if images.ndim != 3 or min(images.shape[1:]) < MIN_SIZE:
        raise ProductUnavailable(
            f"{extractor} features need 2-D images of {MIN_SIZE} x {MIN_SIZE} pixels or more, "
            f"not {images.shape[1:]}"
        )
    import torch

    from harmbench.training.process_state import threads

    network = _network(extractor, context)
    size = _BATCH[extractor]
    if extractor == "random-conv":
        size = max(1, min(size, _BATCH_PIXELS // int(np.prod(images.shape[1:]))))
    rows: list[NDArray] = []
    with (
        threads(context.threads),
        torch.inference_mode(),
        context.progress.task(f"{extractor} features", len(images)) as task,
    ):
        for start in range(0, len(images), size):
            batch = np.clip(images[start : start + size], 0.0, 1.0)[:, None]
            tensor = torch.from_numpy(np.ascontiguousarray(batch)).to(context.device)
            rows.append(network(tensor).cpu().numpy())
            task.advance(len(batch))
    return np.concatenate(rows) if rows else np.empty((0, DIMENSIONS[extractor]), np.float32)


def _network(
    extractor: Extractor, context: ProductContext
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from images (n, 1, h, w) in [0, 1] to features (n, d)."""
    if extractor == "random-conv":
        return _random_conv(context.device)
    inception = load_inception(context.inception, device=context.device)

    def forward(x: torch.Tensor) -> torch.Tensor:
        # pytorch-fid needs RGB and resizes to 299 x 299 itself. Unlike its command line, which
        # reads image files, this does not round to 8 bits.
        return inception(x.expand(-1, 3, -1, -1))[0].flatten(1)

    return forward


def random_conv_weights() -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return kernel (out, in, 3, 3) and bias (out,) of each layer of `random-conv`.

    The draws of PCG64 are the same on every machine. Kernels are uniform with He's variance
    2 / (1 + slope^2) / fan-in (He 2015, arXiv 1502.01852, eq. 15). Biases are in [-0.1, 0.1], so
    that features are not just proportional to the intensity.
    """
    rng = rng_from("random-conv", _WEIGHTS_VERSION)
    layers = []
    for inputs, outputs in zip((1, *_CHANNELS), _CHANNELS, strict=False):
        bound = np.sqrt(3.0 * 2.0 / ((1.0 + _SLOPE**2) * 9 * inputs))
        kernel = bound * (2.0 * rng.random((outputs, inputs, 3, 3)) - 1.0)
        bias = 0.1 * (2.0 * rng.random(outputs) - 1.0)
        layers.append((kernel.astype(np.float32), bias.astype(np.float32)))
    return layers


def _random_conv(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch
    from torch.nn import functional

    layers = [
        (torch.from_numpy(kernel).to(device), torch.from_numpy(bias).to(device))
        for kernel, bias in random_conv_weights()
    ]

    def forward(x: torch.Tensor) -> torch.Tensor:
        pooled = []
        for (kernel, bias), stride in zip(layers, _STRIDES, strict=True):
            x = functional.conv2d(x, kernel, bias, stride=stride, padding=1)
            maps = functional.leaky_relu_(x, _SLOPE).flatten(2)
            mean = maps.mean(2)
            # On a CPU this is several times as fast as torch's standard deviation.
            spread = torch.linalg.vector_norm(maps - mean[..., None], dim=2)
            pooled += [mean, spread / maps.shape[2] ** 0.5]
        return torch.cat(pooled, dim=1)

    return forward


_IMAGES = {
    "test": ("harmonized.test", "the harmonized test images"),
    "own_site": ("own_site.test", "the test images rendered to their own sites"),
    "real": ("raw.real", "the unharmonized images of other subjects"),
    "raw_test": ("raw.test", "the unharmonized test images"),
}
"""Image product and description of each kind of features."""


def _product(extractor: Extractor, name: str) -> Product:
    source, description = _IMAGES[name]

    def make(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
        cohort = inputs.cohort(source)
        if cohort.space == "table" and extractor == "random-conv":
            return {"features": np.asarray(cohort.images)}  # a table already contains features
        return {"features": extract(cohort.images, extractor, context)}

    return Product(
        name=f"features.{extractor}.{name}",
        needs=(source,),
        make=make,
        scope="run" if source.startswith("raw.") else "cell",
        # Distances to real images are for images; mixing also reads the features of a table.
        images=extractor == "inception" or name in ("real", "own_site"),
        reads=("threads", "device", *(["inception"] if extractor == "inception" else [])),
        summary=f"`features` (n, {DIMENSIONS[extractor]}) of {description}",
    )


PRODUCTS = tuple(_product(extractor, name) for extractor in get_args(Extractor) for name in _IMAGES)
"""``features.<extractor>.<name>``, each with the array ``features`` (n, d), row by row.

The products of raw images are made once for all methods. For a table of features, those of
``random-conv`` are the table itself.
"""
