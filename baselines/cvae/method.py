"""The conditional VAE as a method: a code with little site information, rendered at a site."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from baselines.cvae.losses import Likelihood, cvae_loss, require_alive, watch
from baselines.cvae.networks import Latent, Network, Posterior
from baselines.sites import reference_rows, require_known
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext, MethodInfo
from harmbench.errors import HarmbenchError, unknown
from harmbench.files.models import load_model, save_model
from harmbench.seeding import seed_from
from harmbench.training.checkpoint import add_prefix, strip_prefix, weight_arrays, with_weights
from harmbench.training.loop import rows_at
from harmbench.training.method import TrainedMethod
from harmbench.training.precision import Precision
from harmbench.training.process_state import seeded, threads
from harmbench.training.scanners import random_scanner

ROWS_AT_ONCE = 64
"""Images that are rendered together."""
CHECKS = 10
"""Number of checks of the likelihood's scale during a training."""
RIM = 1
"""Voxels around the mask of a scan that are also learned and rendered (partial volume)."""

Render = Literal["decode", "difference"]


@dataclass(eq=False)
class CVAE(TrainedMethod):
    """Conditional VAE with a bound on the site information in its code (Moyer 2020).

    The encoder does not know the site and maps an image to a Gaussian code. The decoder renders a
    code at a site. The loss has a reconstruction term, the KL divergence to the prior and the
    pairwise KL divergence that bounds I(code; site), see `baselines.cvae.losses`. An image is
    harmonized by rendering its code at the target site. Covariates are not used. Scans of unseen
    sites can be harmonized: only ``render="difference"`` and the target ``"own"`` use the site of
    a scan.

    The method learns and renders the mask of a scan and a rim of one voxel. Outside of it the image
    does not change.

    Unlike the paper, it uses whole slices instead of patches, a learned scale of the likelihood,
    simulated scanners before the encoder, learned maps of each site for effects that depend on the
    position in the scanner, differences, and an adversary that predicts the site from images
    rendered at other sites.

    Parameters
    ----------
    latent : {"map", "vector"}
        A map has `latent_size` numbers per block of pixels, a vector has `latent_size` in total.
    latent_size : int
        Size of the code.
    width, depth, grid : int
        Number of channels, of residual blocks in encoder and decoder, of pixel blocks per side.
    likelihood : {"laplace", "gaussian"}
        Distribution of the voxels, with a learned scale.
    beta, marginal, adversary : float
        Weights of the KL divergence to the prior (1 gives the bound on the likelihood), of the
        bound on I(code; site) and of the adversary; 0 omits a term.
    scanners : float
        Strength of the simulated scanner that is applied to the encoder's input in training, see
        `harmbench.training.scanners`; 0 for none, as published.
    images : int
        Length of the training, in images.
    batch_size : int
        Images per batch, at least 2, because the bound is a mean over pairs.
    lr, ema, clip : float
        Highest learning rate (after a warm-up of 500 images, with cosine decay), decay per step of
        the averaged weights, largest norm of a gradient.
    precision : str
        See `harmbench.training.loop.TrainConfig`.
    samples : int
        Number of random codes whose renderings are averaged; 0 renders the posterior mean. All
        images use the same noise.
    render : {"decode", "difference"}
        ``"decode"`` returns the rendering. ``"difference"`` returns the image plus its rendering at
        the target minus its rendering at its own site, which keeps details that the code lacks.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"images": 3_000},
        "standard": {},
        "paper": {
            "images": 1_000_000,
            "batch_size": 32,
            "width": 128,
            "depth": 4,
            "grid": 32,
            "lr": 1e-3,
        },
    }
    inference: ClassVar[frozenset[str]] = frozenset({"samples", "render"})

    latent: Latent = "map"
    latent_size: int = 8
    width: int = 48
    depth: int = 2
    grid: int = 16
    likelihood: Likelihood = "laplace"
    beta: float = 0.01
    marginal: float = 0.01
    adversary: float = 0.0
    scanners: float = 1.0
    images: int = 60_000
    batch_size: int = 8
    lr: float = 3e-3
    ema: float = 0.999
    clip: float = 1.0
    precision: Precision = "auto"
    samples: int = 0
    render: Render = "decode"

    @property
    def info(self) -> MethodInfo:
        """The method uses the site only and renders at any site of the fit."""
        return MethodInfo(
            name="cvae",
            label="cVAE",
            summary="Encodes with little site information and decodes at the target site.",
            doi="arXiv:1904.05375",
            targets="any",
            stochastic=True,
        )

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Train on all rows. No row is held out, since nothing is selected.

        Raises
        ------
        Diverged
            If the loss is not finite, or the posterior or the likelihood has collapsed.
        HarmbenchError
            For an unknown reference site or an argument outside its range.
        """
        self._require_valid()
        reference_rows(cohort, context.reference_site)
        self.reference_site, self.shape = context.reference_site, cohort.shape
        self.sites = cohort.sites
        if self.adversary and len(self.sites) < 2:
            raise HarmbenchError("cvae: an adversary needs two sites or more; set adversary to 0")
        seed = seed_from("cvae", context.seed)
        with seeded(seed):
            model = self._network()
        data = self._tensors(cohort)

        def batches(step: int) -> list[Tensor]:
            rows = rows_at(step, len(cohort), self.batch_size, seed)
            return [part[rows] for part in data]

        self.network = self._train(
            model,
            self._loss,
            batches,
            context,
            seed=seed,
            description="cVAE",
            observe=partial(watch, context.log),
            checks=CHECKS,
            schedule="cosine",
            warmup=500,
            clip=self.clip,
        )
        require_alive(self._history)
        return self

    def _require_valid(self) -> None:
        self._require_choice("latent", Latent)
        self._require_choice("likelihood", Likelihood)
        least = {"batch_size": 2, "latent_size": 1, "grid": 1, "width": 1}
        least |= dict.fromkeys(("beta", "marginal", "adversary", "scanners", "samples"), 0)
        for name, value in least.items():
            if not getattr(self, name) >= value:
                raise HarmbenchError(f"cvae: {name} is {getattr(self, name)}; give {value} or more")

    def _network(self) -> Network:
        return Network(
            (self.shape[0], self.shape[1]),
            len(self.sites),
            latent=self.latent,
            latent_size=self.latent_size,
            width=self.width,
            depth=self.depth,
            grid=self.grid,
            adversary=self.adversary > 0,
        )

    def _tensors(self, cohort: Cohort) -> tuple[Tensor, Tensor, Tensor]:
        """Return the images, their masks with the rim, and the site numbers (-1 for unseen)."""
        number = {site: i for i, site in enumerate(self.sites)}
        site = [number.get(str(name), -1) for name in cohort.column("site")]
        mask = torch.from_numpy(cohort.mask.astype(np.float32))
        support = F.max_pool2d(mask, 2 * RIM + 1, 1, RIM) > 0
        return torch.from_numpy(cohort.images), support, torch.tensor(site)

    def _loss(
        self, model: Network, batch: list[Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, support, site = batch
        seen = images
        if self.scanners:
            seen = random_scanner(images.unsqueeze(1), self.scanners, generator).squeeze(1)
        return cvae_loss(
            model(seen, site, generator),
            images,
            support,
            site,
            likelihood=self.likelihood,
            beta=self.beta,
            marginal=self.marginal,
            adversary=self.adversary,
        )

    @torch.no_grad()
    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the images rendered at the target site, shape (n, *shape).

        Raises
        ------
        HarmbenchError
            For a target that the fit has not seen, images of another shape, an unknown `render`,
            or a scan of an unseen site if its own site is needed.
        """
        self._require_choice("render", Render)
        self._require_shape(cohort)
        if target == OWN_SITE or self.render == "difference":
            require_known(cohort.column("site"), self.sites, "cvae")
        name = target or self.reference_site
        if name not in (OWN_SITE, *self.sites):
            raise unknown("target site", name, self.sites)
        data = self._tensors(cohort)
        out = torch.empty_like(data[0])
        network = self.network.to(context.device)
        with threads(context.threads):
            for rows in torch.arange(len(cohort)).split(ROWS_AT_ONCE):
                images, support, own = (part[rows].to(context.device) for part in data)
                wanted = own
                if name != OWN_SITE:
                    wanted = torch.full_like(own, self.sites.index(name))
                codes = self._codes(network.encode(images), context.seed)
                rendered = _mean_rendering(network, codes, wanted)
                if self.render == "difference":
                    rendered = images + rendered - _mean_rendering(network, codes, own)
                out[rows] = torch.where(support, rendered, images).cpu()
        self.network.cpu()
        return out.numpy()

    def _codes(self, posterior: Posterior, seed: int) -> list[Tensor]:
        """Return the posterior mean, or `samples` draws whose noise is the same for all images."""
        if not self.samples:
            return [posterior.mean]
        generator = torch.Generator().manual_seed(seed_from("cvae code", seed))
        noise = torch.randn((self.samples, *posterior.mean.shape[1:]), generator=generator)
        std = (0.5 * posterior.log_var).exp()
        return [posterior.mean + std * one for one in noise.to(std.device)]

    def save(self, folder: Path) -> None:
        """Write the network, the sites, the shape and the training curve."""
        config = {
            "params": self.params(),
            "reference_site": self.reference_site,
            "sites": self.sites,
            "shape": list(self.shape),
        }
        arrays = weight_arrays("network", self.network) | add_prefix("history", self._history)
        save_model(folder, arrays, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the method that `save` wrote."""
        arrays, config = load_model(folder)
        method = cls(**config["params"])
        method.reference_site, method.sites = config["reference_site"], config["sites"]
        method.shape = tuple(config["shape"])
        method._history = strip_prefix("history", arrays)
        with seeded(0):
            network = method._network()
        method.network = with_weights(network, "network", arrays)
        return method


def _mean_rendering(network: Network, codes: list[Tensor], site: Tensor) -> Tensor:
    return torch.stack([network.decode(code, site) for code in codes]).mean(0)
