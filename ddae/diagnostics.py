"""Site information in the DDAE's codes of an image, measured by a linear probe."""

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
    """Return the codes from which a fitted method renders images.

    Returns
    -------
    dict of str to ndarray, each of shape (n, ...)
        ``latent``, z_upsilon; ``map``, if the encoder returns one; ``noise``, the inverted x_T.
    """
    own = method.labels.tensors(cohort, None, not method.blind, context.log)
    images = method.seen(cohort, own)
    renderer = method.renderer(context)
    found: dict[str, list[torch.Tensor]] = {}
    with torch.inference_mode():
        for x, (labels,) in renderer.batches(images, own):
            latents = renderer.network.encoder(x)
            parts = {"latent": latents[0], "map": latents[1]}
            parts["noise"] = renderer.invert(x, latents, labels)
            for name, part in parts.items():
                if part is not None:
                    found.setdefault(name, []).append(part.cpu())
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


def site_probe(
    train: NDArray[np.float32],
    train_sites: NDArray[Any],
    test: NDArray[np.float32],
    test_sites: NDArray[Any],
) -> float:
    """Return the balanced accuracy of logistic regression on principal components.

    Parameters
    ----------
    train, test : ndarray, shape (n, ...) and (m, ...)
        Codes of different subjects.
    train_sites, test_sites : ndarray of str, shape (n,) and (m,)
        Their sites. The accuracy by chance is 1 / number of sites.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    flat, other = (a.reshape(len(a), -1) for a in (train, test))
    probe = make_pipeline(
        PCA(min(COMPONENTS, *flat.shape), random_state=0),
        StandardScaler(),
        LogisticRegression(C=0.1, max_iter=1000),
    )
    probe.fit(flat, train_sites)
    return float(balanced_accuracy_score(test_sites, probe.predict(other)))
