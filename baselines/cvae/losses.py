"""The losses of the conditional VAE, and the checks that its training has not collapsed."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from baselines.cvae.networks import Network, Rendered
from harmbench.training.loop import Diverged

Likelihood = Literal["gaussian", "laplace"]

LEAST_NATS = 0.1
"""Smallest KL divergence of a useful code, in nats per image."""
LEAST_SCALE = 1e-4
"""Smallest scale of the likelihood. A smaller one means that an image is constant."""


def negative_log_likelihood(
    output: Tensor, images: Tensor, support: Tensor, log_scale: Tensor, likelihood: Likelihood
) -> Tensor:
    """Return the negative log-likelihood of the images, in nats per voxel of the support.

    The scale is learned, so the data set the balance of reconstruction and KL divergence
    (Rybkin 2021, arXiv 2006.13202, for the Gaussian).

    Parameters
    ----------
    output, images : Tensor, shape (n, height, width)
    support : Tensor of bool, shape (n, height, width)
    log_scale : Tensor, shape ()
        Logarithm of the standard deviation (Gaussian) or of the mean absolute deviation (Laplace).
    likelihood : {"gaussian", "laplace"}
    """
    error = (output.float() - images)[support] * torch.exp(-log_scale)
    if likelihood == "laplace":
        return error.abs().mean() + log_scale + math.log(2)
    return 0.5 * error.square().mean() + log_scale + 0.5 * math.log(2 * math.pi)


def kl_to_prior(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the mean over images of KL(N(mean, var) || N(0, 1)), in nats per image."""
    mean, log_var = mean.float().flatten(1), log_var.float().flatten(1)
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1).mean()


def kl_to_others(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the mean of KL(N_i || N_j) over all pairs of n >= 2 different images, in nats.

    It bounds KL(q(z|x) || q(z)) and, with the reconstruction, I(z; site) from above (Moyer 2018,
    arXiv 1805.09458; Moyer 2020, arXiv 1904.05375). This is the full Gaussian KL divergence. Its
    log-determinants cancel between (i, j) and (j, i), and the rest are sums over images, so no
    pairs are formed.
    """
    mean, log_var = mean.float().flatten(1), log_var.float().flatten(1)
    n = len(mean)
    mean = mean - mean.mean(0)  # does not change the result, but keeps its precision
    precision = torch.exp(-log_var)
    # Means over all n * n pairs of (var_i + (mean_i - mean_j)^2) / var_j; mean_i has mean 0.
    spread = (log_var.exp() + mean.square()).mean(0) * precision.mean(0)
    distance = (mean.square() * precision).mean(0)
    # The n pairs (i, i) contribute 0.
    return 0.5 * (spread + distance - 1).sum() * n / (n - 1)


def cvae_loss(
    rendered: Rendered,
    images: Tensor,
    support: Tensor,
    site: Tensor,
    *,
    likelihood: Likelihood = "laplace",
    beta: float = 1.0,
    marginal: float = 1.0,
    adversary: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the loss of a batch, in nats per voxel, and its parts.

    ``(1 + marginal) * reconstruction + beta * prior + marginal * others + adversary * sites``. The
    reconstruction counts for the likelihood and for the bound on I(z; site), as in Moyer 2018. The
    KL divergences are divided by the mean number of voxels in the support.

    Parameters
    ----------
    rendered : Rendered
        Output of the network.
    images : Tensor, shape (n, height, width)
        At least 2 images.
    support : Tensor of bool, shape (n, height, width)
    site : Tensor of int64, shape (n,)
    likelihood, beta, marginal, adversary
        See `baselines.cvae.method.CVAE`.

    Returns
    -------
    loss : Tensor, shape ()
    parts : dict of str to Tensor
        ``reconstruction`` (nats per voxel), ``prior``, ``others`` (nats per image), ``mae``,
        ``scale``, ``outside`` (share of the support rendered outside [0, 1]) and, with an
        adversary, ``sites`` (nats).
    """
    voxels = support.sum() / len(images)
    parts = {
        "reconstruction": negative_log_likelihood(
            rendered.output, images, support, rendered.log_scale, likelihood
        ),
        "prior": kl_to_prior(*rendered.posterior),
        "others": kl_to_others(*rendered.posterior),
    }
    loss = (1 + marginal) * parts["reconstruction"]
    loss = loss + (beta * parts["prior"] + marginal * parts["others"]) / voxels
    if rendered.site_logits is not None:
        parts["sites"] = F.cross_entropy(rendered.site_logits.float(), site)
        loss = loss + adversary * parts["sites"]
    with torch.no_grad():
        inside = rendered.output[support].float()
        parts["mae"] = (inside - images[support]).abs().mean()
        parts["outside"] = ((inside < 0) | (inside > 1)).float().mean()
        parts["scale"] = rendered.log_scale.exp()
    return loss, parts


def watch(log: logging.Logger, model: Network, images: int) -> None:
    """Log the scale of the likelihood; raise `Diverged` if it has collapsed to 0."""
    scale = float(model.log_scale.detach().exp())
    log.info("after %d images: scale of the likelihood %.4f", images, scale)
    if not scale > LEAST_SCALE:
        raise Diverged(
            f"the cVAE's likelihood has collapsed after {images} images: its scale is {scale:.1g}, "
            f"under {LEAST_SCALE:g}; look for constant images or lower the learning rate"
        )


def require_alive(history: Mapping[str, NDArray[Any]]) -> None:
    """Raise `Diverged` if, after the training, the code does not depend on the image."""
    nats = float(history["prior"][-1])
    if not nats >= LEAST_NATS:
        raise Diverged(
            f"the cVAE's posterior has collapsed onto the prior ({nats:.2g} nats per image): all "
            "images would be rendered alike; lower beta and marginal or train longer"
        )
