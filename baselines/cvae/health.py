"""Whether a training of the conditional VAE has come to anything."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from torch import nn

from baselines.cvae.networks import Network
from harmbench.training.loop import Diverged

LEAST_NATS = 0.1
"""Least KL of a living code, nats per image."""
LEAST_SCALE = 1e-4
"""Least scale of the likelihood; below it the network has found a constant image."""


def watch(log: logging.Logger, model: nn.Module, images: int) -> None:
    """Log the likelihood's scale; stop a training in which it has collapsed.

    Parameters
    ----------
    log : Logger
    model : Network
    images : int
        Seen so far.

    Raises
    ------
    Diverged
        Where the scale has gone to 0.
    """
    assert isinstance(model, Network)
    scale = float(model.log_scale.detach().exp())
    log.info("after %d images: scale of the likelihood %.4f", images, scale)
    if not scale > LEAST_SCALE:
        raise Diverged(
            f"the cVAE's likelihood has collapsed after {images} images: its scale is {scale:.1g}, "
            f"under {LEAST_SCALE:g}; look for constant images or lower the learning rate"
        )


def require_alive(history: Mapping[str, NDArray[Any]]) -> None:
    """Raise the error of a training at whose end the code says nothing of the images.

    Parameters
    ----------
    history : mapping of str to ndarray
        Of the training, with ``"prior"`` in nats per image.

    Raises
    ------
    Diverged
        Where the posterior of every image is the prior.
    """
    nats = float(history["prior"][-1])
    if not nats >= LEAST_NATS:
        raise Diverged(
            f"the cVAE's posterior has collapsed onto the prior ({nats:.2g} nats per image): all "
            "images would be rendered alike; lower beta and marginal or train longer"
        )
