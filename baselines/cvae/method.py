"""The conditional VAE as a method: a code with little site in it, rendered to the target site."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from baselines.cvae.health import require_alive, watch
from baselines.cvae.losses import Likelihood, cvae_loss
from baselines.cvae.networks import Latent, Network
from baselines.cvae.rendering import Render, codes, grown, render
from baselines.sites import reference_rows, require_known
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.errors import HarmbenchError, unknown
from harmbench.files.models import load_model, save_model
from harmbench.seeding import seed_from
from harmbench.training.checkpoint import below, under
from harmbench.training.layers import at_rest
from harmbench.training.loop import TrainConfig, rows_at, train
from harmbench.training.precision import Precision
from harmbench.training.process_state import seeded, threads
from harmbench.training.scanners import random_scanner

ROWS_AT_ONCE = 64
"""Images that are rendered together."""
CHECKS = 10
"""How often in a training the likelihood's scale is looked at."""

Batch = tuple[Tensor, Tensor, Tensor]


class CVAE(Harmonizer):
    """Conditional VAE with a bound on the site information in its code (Moyer 2020).

    An encoder that is told no site maps an image to a Gaussian code; a decoder that is told the
    site, and nothing else, renders it. Loss: reconstruction, KL to the prior, and the pairwise KL
    that bounds I(code; site), see `baselines.cvae.losses`. An image is harmonized by rendering its
    code to the target site. Covariates are never seen. Unseen sites can be harmonized, as only
    ``render="difference"`` and the target ``"own"`` ask for a scan's own site.

    Learned and rendered is a scan's own mask with a rim of one voxel; outside it the image passes
    through unchanged (0 where brains were cut out), so nothing is painted there.

    Beyond the paper: whole slices instead of patches, the learned scale of the likelihood, made-up
    scanners before the encoder, learned maps of each site for effects that have a place in the
    scanner, differences, and the adversary's form, which reads the site from renderings to other
    sites.

    Parameters
    ----------
    latent : {"map", "vector"}
        A map holds `latent_size` numbers for every block of pixels, a vector that many in all.
    latent_size : int
        Size of the code.
    width, depth, grid : int
        Channels, residual blocks in the encoder and in the decoder, blocks of pixels along a side.
    likelihood : {"laplace", "gaussian"}
        Of the voxels, with a learned scale.
    beta, marginal, adversary : float
        Weights of the KL to the prior (1 is the bound on the likelihood), of the bound on
        I(code; site) and of the adversary; 0 leaves a term out.
    scanners : float
        Strength of the made-up scanner that the encoder sees each image through in training, see
        `harmbench.training.scanners`; 0 for none, as published.
    images : int
        Length of the training, in images.
    batch_size : int
        Images in a batch, 2 or more: the bound is a mean over pairs.
    lr, ema, clip : float
        Highest learning rate (it rises over 500 images and falls as a cosine), decay per step of
        the averaged weights, largest norm of a gradient.
    precision : str
        See `harmbench.training.loop.TrainConfig`.
    samples : int
        Draws of the code whose renderings are averaged; 0 renders the posterior mean. Every image
        gets the same draws.
    render : {"decode", "difference"}
        ``"decode"`` returns the rendering, ``"difference"`` the image plus the rendering at the
        target minus the rendering at its own site, which keeps what the code has lost.
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
    budget: ClassVar[frozenset[str]] = frozenset({"images", "precision"})
    inference: ClassVar[frozenset[str]] = frozenset({"samples", "render"})

    def __init__(
        self,
        latent: Latent = "map",
        latent_size: int = 8,
        width: int = 48,
        depth: int = 2,
        grid: int = 16,
        likelihood: Likelihood = "laplace",
        beta: float = 0.01,
        marginal: float = 0.01,
        adversary: float = 0.0,
        scanners: float = 1.0,
        images: int = 60_000,
        batch_size: int = 8,
        lr: float = 3e-3,
        ema: float = 0.999,
        clip: float = 1.0,
        precision: Precision = "auto",
        samples: int = 0,
        render: Render = "decode",
    ) -> None:
        self.latent, self.latent_size = latent, latent_size
        self.width, self.depth, self.grid = width, depth, grid
        self.likelihood: Likelihood = likelihood
        self.beta, self.marginal, self.adversary = beta, marginal, adversary
        self.scanners = scanners
        self.images, self.batch_size = images, batch_size
        self.lr, self.ema, self.clip, self.precision = lr, ema, clip, precision
        self.samples, self.render = samples, render
        self._history: dict[str, NDArray[Any]] = {}

    @property
    def info(self) -> MethodInfo:
        """Sees the site only; renders to any site of the fit."""
        return MethodInfo(
            name="cvae",
            label="cVAE",
            summary="Encodes with little site information and decodes at the target site.",
            doi="arXiv:1904.05375",
            targets="any",
            stochastic=True,
        )

    @property
    def history(self) -> dict[str, NDArray[Any]]:
        """Loss, its parts and the gradient's norm during training, see `cvae_loss`."""
        return self._history

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Train on all rows: nothing is stopped or selected, so nothing is held out.

        Raises
        ------
        Diverged
            Where the loss is not finite, or the posterior or the likelihood has collapsed.
        HarmbenchError
            For an unknown reference site or an argument outside its range.
        """
        self._require_sound()
        reference_rows(cohort, context.reference_site)
        self.reference_site, self.shape = context.reference_site, cohort.shape
        self.sites = cohort.sites
        if self.adversary and len(self.sites) < 2:
            raise HarmbenchError("cvae: an adversary needs two sites or more; set adversary to 0")
        seed = seed_from("cvae", context.seed)
        with seeded(seed):
            model = self._network()
        with threads(context.threads):
            trained = train(
                model,
                self._loss,
                partial(self._batch, self._tensors(cohort), seed),
                self._config,
                seed=seed,
                device=context.device,
                progress=context.progress,
                description="cVAE",
                checkpoints=context.checkpoints,
                observe=partial(watch, context.log),
                observe_every=max(1, self.images // CHECKS),
            )
        self._history = dict(trained.curve)
        self.network = _at_rest(trained.ema or model)
        require_alive(self._history)
        return self

    def _require_sound(self) -> None:
        _require_one_of("latent", self.latent, get_args(Latent))
        _require_one_of("likelihood", self.likelihood, get_args(Likelihood))
        for name, least in {"batch_size": 2, "latent_size": 1, "grid": 1, "width": 1}.items():
            if getattr(self, name) < least:
                raise HarmbenchError(f"cvae: {name} is {getattr(self, name)}; give {least} or more")
        for name in ("beta", "marginal", "adversary", "scanners", "samples"):
            if not getattr(self, name) >= 0:
                raise HarmbenchError(f"cvae: {name} is {getattr(self, name)}; give 0 or more")

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

    @property
    def _config(self) -> TrainConfig:
        return TrainConfig(
            images=self.images,
            batch_size=self.batch_size,
            lr=self.lr,
            schedule="cosine",
            warmup=500,
            ema=self.ema,
            clip=self.clip,
            precision=self.precision,
        )

    def _tensors(self, cohort: Cohort) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, support and site numbers (-1 for an unseen one)."""
        number = {site: i for i, site in enumerate(self.sites)}
        site = [number.get(str(name), -1) for name in cohort.column("site")]
        return torch.from_numpy(cohort.images), grown(cohort.mask), torch.tensor(site)

    def _batch(self, data: Batch, seed: int, step: int) -> Batch:
        rows = rows_at(step, len(data[0]), self.batch_size, seed)
        images, support, site = data
        return images[rows], support[rows], site[rows]

    def _loss(
        self, model: nn.Module, batch: Batch, generator: torch.Generator
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
        """Return the images rendered to the target site, shape (n, *shape).

        Raises
        ------
        HarmbenchError
            For a target that the fit has not seen, images of another shape, an argument outside
            its range, or, where a scan's own site is asked for, one that the fit has not seen.
        """
        _require_one_of("render", self.render, get_args(Render))
        self._require_shape(cohort)
        if target == OWN_SITE or self.render == "difference":
            require_known(cohort.column("site"), self.sites, "cvae")
        name = target or self.reference_site
        if name not in (OWN_SITE, *self.sites):
            raise unknown("target site", name, self.sites)
        wanted = None if name == OWN_SITE else self.sites.index(name)
        data = self._tensors(cohort)
        out = torch.empty_like(data[0])
        network = self.network.to(context.device)
        with threads(context.threads):
            for rows in torch.arange(len(cohort)).split(ROWS_AT_ONCE):
                images, support, own = (part[rows].to(context.device) for part in data)
                to = own if wanted is None else torch.full_like(own, wanted)
                posterior = network.encode(images)
                drawn = codes(posterior, self.samples, context.seed)
                rendered = render(network, images, drawn, own, to, self.render)
                out[rows] = torch.where(support, rendered, images).cpu()
        self.network.cpu()
        return out.numpy()

    def _require_shape(self, cohort: Cohort) -> None:
        if cohort.shape != self.shape:
            raise HarmbenchError(
                f"cvae was fitted on images of shape {self.shape} and cannot harmonize images of "
                f"shape {cohort.shape}; resample them or fit it again"
            )

    def save(self, folder: Path) -> None:
        """Write the network, the sites, the shape and the training's history."""
        config = {
            "params": self.params(),
            "reference_site": self.reference_site,
            "sites": self.sites,
            "shape": list(self.shape),
        }
        history = {name: torch.from_numpy(values) for name, values in self._history.items()}
        tensors = under("network", self.network.state_dict()) | under("history", history)
        save_model(folder, {name: value.numpy() for name, value in tensors.items()}, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        arrays, config = load_model(folder)
        method = cls(**config["params"])
        method.reference_site, method.sites = config["reference_site"], config["sites"]
        method.shape = tuple(config["shape"])
        tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
        method._history = {name: v.numpy() for name, v in below("history", tensors).items()}
        with seeded(0):
            network = method._network()
        network.load_state_dict(below("network", tensors))
        method.network = _at_rest(network)
        return method


def _at_rest(network: nn.Module) -> Network:
    assert isinstance(network, Network)
    return at_rest(network)


def _require_one_of(name: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise unknown(f"{name} of the cvae", value, known)
