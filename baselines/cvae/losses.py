"""The losses of the conditional VAE, as functions of tensors."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.cvae.networks import Rendered

Likelihood = Literal["gaussian", "laplace"]


def negative_log_likelihood(
    output: Tensor, images: Tensor, support: Tensor, log_scale: Tensor, likelihood: Likelihood
) -> Tensor:
    """Return minus the log density of the images in the support, nats per voxel.

    The scale is learned, so reconstruction and KL are weighed by the data and not by hand
    (Rybkin 2021, arXiv 2006.13202, for the Gaussian).

    Parameters
    ----------
    output, images : Tensor, shape (n, height, width)
    support : Tensor of bool, shape (n, height, width)
        Voxels that count.
    log_scale : Tensor, shape ()
        Logarithm of the standard deviation (Gaussian) or of the mean absolute deviation (Laplace).
    likelihood : {"gaussian", "laplace"}

    Returns
    -------
    Tensor, shape ()
    """
    error = (output.float() - images)[support] * torch.exp(-log_scale)
    if likelihood == "laplace":
        return error.abs().mean() + log_scale + math.log(2)
    return 0.5 * error.square().mean() + log_scale + 0.5 * math.log(2 * math.pi)


def kl_to_prior(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the mean over images of KL(N(mean, var) || N(0, 1)), nats per image.

    Parameters
    ----------
    mean, log_var : Tensor, shape (n, ...)

    Returns
    -------
    Tensor, shape ()
    """
    mean, log_var = mean.float().flatten(1), log_var.float().flatten(1)
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(1).mean()


def kl_to_others(mean: Tensor, log_var: Tensor) -> Tensor:
    """Return the mean of KL(N_i || N_j) over all pairs of different images, nats per pair.

    It bounds KL(q(z|x) || q(z)) and, with the reconstruction, I(z; site) from above (Moyer 2018,
    arXiv 1805.09458; Moyer 2020, arXiv 1904.05375). The full Gaussian KL; its log-determinants
    cancel between (i, j) and (j, i), and the rest is sums over images, so no pair is ever formed.

    Parameters
    ----------
    mean, log_var : Tensor, shape (n, ...)
        Of n >= 2 images.

    Returns
    -------
    Tensor, shape ()
    """
    mean, log_var = mean.float().flatten(1), log_var.float().flatten(1)
    n = len(mean)
    mean = mean - mean.mean(0)  # changes no KL; squares of a common mean would cost the digits
    precision = torch.exp(-log_var)
    # Means over all n * n pairs of (var_i + (mean_i - mean_j)^2) / var_j; mean_i has mean 0.
    spread = (log_var.exp() + mean.square()).mean(0) * precision.mean(0)
    distance = (mean.square() * precision).mean(0)
    # The n pairs (i, i) are 0 each.
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
    """Return the loss of a batch, nats per voxel, and its parts.

    ``(1 + marginal) * reconstruction + beta * prior + marginal * others + adversary * sites``: the
    reconstruction counts twice, for the likelihood and for the bound on I(z; site), as in Moyer
    2018. The KLs are divided by the mean number of voxels in the support.

    Parameters
    ----------
    rendered : Rendered
        The network's output for the batch.
    images : Tensor, shape (n, height, width)
        n >= 2.
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
