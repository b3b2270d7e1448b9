"""Where the site hides: a linear probe on each thing that the DDAE takes off an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddae.method import DDAE
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext

COMPONENTS = 64


def codes(method: DDAE, cohort: Cohort, context: ApplyContext) -> dict[str, NDArray[np.float32]]:
    """Return what an image becomes before it is rendered again.

    Parameters
    ----------
    method : DDAE
        Fitted.
    cohort : Cohort
        Sees what the method sees when it harmonizes.
    context : ApplyContext
        Device, threads, progress.

    Returns
    -------
    dict of str to ndarray, each of shape (n, ...)
        ``latent``, z_upsilon; ``map``, where the encoder returns one; ``noise``, the inverted x_T.
    """
    own = method.labels.tensors(cohort, None, not method.blind, context.log)
    images = method.seen(cohort, own)
    renderer = method.renderer(context)
    found: dict[str, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for x, labels in renderer.batches(images, own):
            latents = renderer.network.encoder(x)
            parts = {"latent": latents[0], "map": latents[1]}
            parts["noise"] = renderer.invert(x, latents, labels)
            for name, part in parts.items():
                if part is not None:
                    found.setdefault(name, []).append(part.cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def site_probe(
    training: NDArray[np.float32],
    site: NDArray[Any],
    test: NDArray[np.float32],
    wanted: NDArray[Any],
) -> float:
    """Return the balanced accuracy of logistic regression on principal components.

    Parameters
    ----------
    training, test : ndarray, shape (n, ...) and (m, ...)
        Codes of different subjects.
    site, wanted : ndarray of str, shape (n,) and (m,)
        Their sites; one over their number is chance.

    Returns
    -------
    float
        0 to 1.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    flat, other = (a.reshape(len(a), -1) for a in (training, test))
    probe = make_pipeline(
        PCA(min(COMPONENTS, *flat.shape), random_state=0),
        StandardScaler(),
        LogisticRegression(C=0.1, max_iter=1000),
    )
    probe.fit(flat, site)
    return float(balanced_accuracy_score(wanted, probe.predict(other)))
