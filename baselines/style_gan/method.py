"""The style-encoding GAN as a method, trained on all sites together without site labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.sites import reference_rows
from baselines.style_gan.losses import Weights
from baselines.style_gan.networks import Encoder, Generator, Networks, Sizes
from baselines.style_gan.training import ROWS_AT_ONCE, Batches, Scans, phases, watch
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext, MethodInfo
from harmbench.errors import HarmbenchError, unknown
from harmbench.files.models import load_model, save_model
from harmbench.seeding import seed_from
from harmbench.training.checkpoint import add_prefix, strip_prefix, weight_arrays, with_weights
from harmbench.training.method import TrainedMethod
from harmbench.training.precision import Precision
from harmbench.training.process_state import seeded, threads

CHECKS = 10
"""Number of checks of the renderings of the validation images during a training."""

Style = Literal["mean", "scan"]
Render = Literal["style", "difference"]


@dataclass(eq=False)
class StyleGAN(TrainedMethod):
    """StarGAN v2's architecture with one domain (Choi 2020; Liu 2021; Liu 2023).

    The content comes from the scan, the style from the target site. The networks are trained on
    images only, without site, age or sex. After the training, the style codes of each site's fit
    scans are averaged. Scans of unseen sites can therefore be harmonized. The target ``"own"`` uses
    the style code of each scan, not that of its site, which gives a reconstruction. Outside a
    scan's own mask the image does not change, neither in training nor when harmonizing.

    Differences from the papers: pixels are folded into channels (`fold`); images are not flipped or
    cropped, which would move them out of the template space; the networks are narrower; each half
    of a batch is rendered with one of the two kinds of styles, so that one step of the
    discriminator replaces two (a batch of 16 corresponds to their batch of 8). Two additions are
    not published, but are necessary for results after an hour on a CPU: a scan is also rendered in
    its own style from its image by a simulated scanner (`own`, `scanners`), which teaches the
    networks to describe the scanner by the style and not by the content; and a style may depend on
    the position in the image (`field`). The `paper` preset has none of these.

    Parameters
    ----------
    images : int
        Length of the training, in images.
    batch_size : int
        Images per batch, at least 2: half for random styles, half for styles of references.
    channels : int
        Channels of the first layer.
    style_dim : int
        Length of a style code.
    fold : int
        Side of the blocks of pixels that the first layer folds into channels; 1 as published.
    lr, mapping_lr : float
        Learning rates, of all networks and of the mapping network.
    style_weight, diversity, cycle, own, r1 : float
        Weights of the losses (the adversarial loss has weight 1), see
        `baselines.style_gan.losses`. That of the diversity decreases linearly to 0.
    scanners : float
        Strength of the simulated scanner for renderings in the own style, see
        `harmbench.training.scanners`; 0 for none.
    field : int
        Degree of the polynomials of the position by which a style scales and shifts maps; 0 as
        published.
    ema : float
        Decay per step of the averaged weights, which harmonize images.
    clip : float
        Largest norm of a gradient; 0 for no limit, and norms are not recorded.
    precision : str
        See `harmbench.training.loop.TrainConfig`.
    style : {"mean", "scan"}
        The style of a site: the mean over its fit scans, or that of the scan nearest to the mean.
    render : {"style", "difference"}
        ``"style"`` returns the rendering in the target's style, as published. ``"difference"``
        returns the image plus that rendering minus the one in its own style, which keeps details
        that both lack.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {
            "images": 400,
            "channels": 8,
            "style_dim": 8,
            "lr": 2e-3,
            "mapping_lr": 2e-5,
        },
        "standard": {},
        "paper": {
            "images": 1_600_000,
            "batch_size": 16,
            "channels": 64,
            "fold": 1,
            "lr": 1e-4,
            "mapping_lr": 1e-6,
            "own": 0.0,
            "scanners": 0.0,
            "field": 0,
        },
    }
    inference: ClassVar[frozenset[str]] = frozenset({"style", "render"})

    images: int = 24_000
    batch_size: int = 8
    channels: int = 24
    style_dim: int = 64
    fold: int = 2
    lr: float = 1e-3
    mapping_lr: float = 1e-5
    style_weight: float = 1.0
    diversity: float = 1.0
    cycle: float = 100.0
    own: float = 50.0
    scanners: float = 2.0
    field: int = 2
    r1: float = 1.0
    ema: float = 0.999
    clip: float = 100.0
    precision: Precision = "auto"
    style: Style = "mean"
    render: Render = "style"

    @property
    def info(self) -> MethodInfo:
        """The method uses the sites when it is fitted and only images when it harmonizes."""
        return MethodInfo(
            name="gan",
            label="Style-encoding GAN",
            summary="Renders each scan's content in the mean style of the target site.",
            doi="10.1002/hbm.26422",
            fit_sees=frozenset({"site"}),
            harmonize_sees=frozenset(),
            targets="any",
            stochastic=True,
        )

    @property
    def sizes(self) -> Sizes:
        """Sizes of the networks."""
        return Sizes(max(self.shape), self.channels, self.style_dim, self.fold, self.field)

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Train on all rows except the validation rows, then average each site's style codes.

        Raises
        ------
        Diverged
            If a loss is not finite or the renderings have lost their variance.
        HarmbenchError
            For an unknown reference site, a batch of one, a wrong `style`, or no row to train on.
        """
        if self.batch_size < 2:
            raise HarmbenchError(f"gan: batch_size is {self.batch_size}; give 2 or more")
        self._require_choice("style", Style)
        reference_rows(cohort, context.reference_site)
        self.reference_site, self.shape = context.reference_site, cohort.shape
        held_out = set(context.validation)
        kept = np.array([key not in held_out for key in cohort.keys])
        if not kept.any():
            raise HarmbenchError("all rows are held out for validation; none is left to train on")
        weights = Weights(self.style_weight, self.cycle, self.own, self.scanners, self.r1)
        seed = seed_from("gan", context.seed)
        with seeded(seed):
            model = Networks(self.sizes)
        scans = Scans(cohort.subset(kept), self.sizes)
        watched = scans if kept.all() else Scans(cohort.subset(~kept), self.sizes)
        steps = math.ceil(self.images / self.batch_size)
        model = self._train(
            model,
            phases(model, weights, self.mapping_lr),
            Batches(scans, self.batch_size, seed, steps, self.diversity),
            context,
            seed=seed,
            description="style-encoding GAN",
            observe=partial(watch, scans=watched, log=context.log),
            checks=CHECKS,
            betas=(0.0, 0.99),
            clip=self.clip,
        )
        self.generator, self.encoder = model.generator, model.style
        with threads(context.threads):
            self._learn_styles(cohort, context)
        return self

    def _learn_styles(self, cohort: Cohort, context: FitContext) -> None:
        """Keep the mean style code of each site, and the code of a scan that is nearest to it."""
        site = cohort.column("site").astype(str)
        self.sites = cohort.sites
        encoder = self.encoder.to(context.device)
        pieces = Scans(cohort, self.sizes).pieces(context.device)
        codes = torch.cat([encoder(images).cpu() for images, _ in pieces])
        self.encoder.cpu()
        own = [torch.from_numpy(site == name) for name in self.sites]
        means = torch.stack([codes[rows].mean(0) for rows in own])
        nearest = [
            codes[int(torch.where(rows, distance, torch.inf).argmin())]
            for rows, distance in zip(own, torch.cdist(means, codes), strict=True)
        ]
        self.styles: dict[str, Tensor] = {"mean": means, "scan": torch.stack(nearest)}

    @torch.no_grad()
    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the images in the target's style, shape (n, *shape).

        Raises
        ------
        HarmbenchError
            For a target that the fit has not seen, images of another shape, or an unknown `style`
            or `render`.
        """
        self._require_shape(cohort)
        self._require_choice("render", Render)
        code = None if target == OWN_SITE else self._target_style(target).to(context.device)
        out = cohort.images.copy()
        height, width = self.shape
        generator = self.generator.to(context.device)
        encoder = self.encoder.to(context.device)
        with threads(context.threads):
            pieces = Scans(cohort, self.sizes).pieces(context.device)
            for i, (images, _) in enumerate(pieces):
                if code is None:
                    rendered = generator(images, encoder(images))
                else:
                    rendered = generator(images, code.expand(len(images), -1))
                    if self.render == "difference":
                        rendered = images + rendered - generator(images, encoder(images))
                rows = slice(i * ROWS_AT_ONCE, i * ROWS_AT_ONCE + len(images))
                out[rows] = (rendered[:, 0, :height, :width].cpu().numpy() + 1) / 2
        generator.cpu()
        encoder.cpu()
        return np.where(cohort.mask, out, cohort.images)

    def _target_style(self, target: str | None) -> Tensor:
        self._require_choice("style", Style)
        name = target or self.reference_site
        if name not in self.sites:
            raise unknown("target site", name, self.sites)
        return self.styles[self.style][[self.sites.index(name)]]

    def save(self, folder: Path) -> None:
        """Write the generator, the style encoder, the sites' styles and the training curve.

        The mapping network and the discriminator are used in training only.
        """
        arrays = (
            weight_arrays("generator", self.generator)
            | weight_arrays("encoder", self.encoder)
            | add_prefix("styles", {name: style.numpy() for name, style in self.styles.items()})
            | add_prefix("history", self._history)
        )
        config = {
            "params": self.params(),
            "reference_site": self.reference_site,
            "sites": self.sites,
            "shape": list(self.shape),
        }
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
            generator, encoder = Generator(method.sizes), Encoder(method.sizes, method.style_dim)
        method.generator = with_weights(generator, "generator", arrays)
        method.encoder = with_weights(encoder, "encoder", arrays)
        styles = strip_prefix("styles", arrays)
        method.styles = {name: torch.from_numpy(style) for name, style in styles.items()}
        return method
