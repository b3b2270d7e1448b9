"""Features of images for distances and mixing: a fixed random network, and Inception.

`random-conv` needs no weights and is always computed: a small convolutional network with fixed
random weights. Naeem 2020 (arXiv 2002.09797, section 4) finds that the features of a randomly
initialized network rank generators as well as, and outside natural images better than, those of a
network trained on ImageNet. `inception` is pytorch-fid's InceptionV3 (see `.inception`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import Product, ProductContext, ProductUnavailable
from harmbench.protocol.features.inception import load_inception
from harmbench.seeding import rng_from

if TYPE_CHECKING:
    import torch

Extractor = Literal["random-conv", "inception"]

DIMENSIONS: dict[Extractor, int] = {"random-conv": 512, "inception": 2048}

MIN_SIZE = 16

# Mean and standard deviation of each map of each layer: 2 * (64 + 96 + 96) = 512 features. Those of
# the last layer alone see individual anatomy more than the scanner, and reward a slight blur; the
# first layer, at full resolution, sees sharpness and noise.
_CHANNELS = (64, 96, 96)
_STRIDES = (1, 2, 2)
_SLOPE = 0.2  # of the leaky ReLU; with a plain one a third of the features is 0 in every image
_WEIGHTS_VERSION = 1
_BATCH: dict[Extractor, int] = {"random-conv": 128, "inception": 16}
_BATCH_PIXELS = 8 * 64 * 64
"""Most pixels of a batch of `random-conv`: its maps must stay in the processor's cache."""


def extract(images: NDArray[np.float32], extractor: Extractor, context: ProductContext) -> NDArray:
    """Return the features of 2-D images.

    Parameters
    ----------
    images : ndarray of float32, shape (n, h, w)
        Any size from 32 up; values are cut to [0, 1] first, for both extractors.
    extractor : {"random-conv", "inception"}
    context : ProductContext
        Device, threads, and where the Inception weights are.

    Returns
    -------
    ndarray of float32, shape (n, d)
        d = 512 or 2048. Row i depends on image i alone, up to float32 rounding.

    Raises
    ------
    ProductUnavailable
        For images that are not 2-D or too small, and where Inception weights cannot be had.
    """
    if images.ndim != 3 or min(images.shape[1:]) < MIN_SIZE:
        raise ProductUnavailable(
            f"{extractor} features are of 2-D images of {MIN_SIZE} x {MIN_SIZE} or more, "
            f"not {images.shape[1:]}"
        )
    import torch

    from harmbench.training.process_state import threads

    network = _network(extractor, context)
    rows: list[NDArray] = []
    size = _BATCH[extractor]
    if extractor == "random-conv":
        size = max(1, min(size, _BATCH_PIXELS // int(np.prod(images.shape[1:]))))
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
    if not rows:
        return np.empty((0, DIMENSIONS[extractor]), np.float32)
    return np.concatenate(rows)


def _network(
    extractor: Extractor, context: ProductContext
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function from (n, 1, h, w) in [0, 1] to (n, d)."""
    if extractor == "random-conv":
        return _random_conv(context.device)
    inception = load_inception(context.inception, device=context.device)

    def forward(x: torch.Tensor) -> torch.Tensor:
        # Gray to RGB; pytorch-fid resizes to 299 x 299 itself. Unlike its command line, which
        # reads image files, nothing is rounded to 8 bits.
        return inception(x.expand(-1, 3, -1, -1))[0].flatten(1)

    return forward


def random_conv_weights() -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Return kernel (out, in, 3, 3) and bias (out,) of each layer of `random-conv`.

    Uniform draws of PCG64, which are the same bits on every machine, with He's variance
    2 / (1 + slope^2) / fan-in (He 2015, arXiv 1502.01852, eq. 15) for kernels; biases in
    [-0.1, 0.1], so that features are not merely proportional to intensity.
    """
    rng = rng_from("random-conv", _WEIGHTS_VERSION)
    layers = []
    for inside, outside in zip((1, *_CHANNELS), _CHANNELS, strict=False):
        bound = np.sqrt(3.0 * 2.0 / ((1.0 + _SLOPE**2) * 9 * inside))
        kernel = bound * (2.0 * rng.random((outside, inside, 3, 3)) - 1.0)
        bias = 0.1 * (2.0 * rng.random(outside) - 1.0)
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
            # Several times as fast on a processor as torch's own standard deviation.
            spread = torch.linalg.vector_norm(maps - mean[..., None], dim=2)
            pooled += [mean, spread / maps.shape[2] ** 0.5]
        return torch.cat(pooled, dim=1)

    return forward


# Products ---------------------------------------------------------------------------------------

_IMAGES = {
    "test": "the harmonized test images",
    "own_site": "the test images rendered back to their own sites",
    "real": "the unharmonized images of other subjects",
    "raw_test": "the unharmonized test images",
}
_SOURCES: dict[str, tuple[str, Literal["cell", "run"]]] = {
    "test": ("harmonized.test", "cell"),
    "own_site": ("own_site.test", "cell"),
    "real": ("raw.real", "run"),
    "raw_test": ("raw.test", "run"),
}


def _product(extractor: Extractor, name: str) -> Product:
    source, scope = _SOURCES[name]

    def make(inputs: MetricInputs, context: ProductContext) -> dict[str, NDArray]:
        cohort: Cohort = inputs.cohort(source)
        if cohort.space == "table" and extractor == "random-conv":
            return {"features": np.asarray(cohort.images)}  # they are features already
        return {"features": extract(cohort.images, extractor, context)}

    return Product(
        name=f"features.{extractor}.{name}",
        needs=(source,),
        make=make,
        scope=scope,
        reads=("threads", "device", *(["inception"] if extractor == "inception" else [])),
        summary=f"`features` (n, {DIMENSIONS[extractor]}) of {_IMAGES[name]}",
    )


_EXTRACTORS: tuple[Extractor, ...] = ("random-conv", "inception")

PRODUCTS: tuple[Product, ...] = tuple(
    _product(extractor, name) for extractor in _EXTRACTORS for name in _SOURCES
)
"""``features.<extractor>.<of>``, each with the array ``features`` (n, d) in the order of the rows.

`of` is ``test`` (harmonized), ``own_site`` (rendered back), ``real`` (the disjoint real images)
or ``raw_test``; the last two are made once for all methods. Of a table of features, those of
``random-conv`` are the table itself.
"""
