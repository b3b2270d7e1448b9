"""The style-encoding GAN as a method: trained on all sites at once, told of none."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from baselines.sites import reference_rows
from baselines.style_gan.losses import Weights
from baselines.style_gan.networks import Encoder, Generator, Networks, Sizes
from baselines.style_gan.training import (
    ROWS_AT_ONCE,
    Batches,
    Scans,
    phases,
    require_at_least,
    watch,
)
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.errors import HarmbenchError, unknown
from harmbench.files.models import load_model, save_model
from harmbench.seeding import seed_from
from harmbench.training.checkpoint import below, under
from harmbench.training.layers import at_rest
from harmbench.training.loop import TrainConfig, train
from harmbench.training.precision import Precision
from harmbench.training.process_state import seeded, threads

CHECKS = 10
"""How often in a training the renderings of the validation images are looked at."""

Style = Literal["mean", "scan"]
STYLES = get_args(Style)
Render = Literal["style", "difference"]
RENDERS = get_args(Render)


class StyleGAN(Harmonizer):
    """StarGAN v2's architecture with one domain (Choi 2020; Liu 2021; Liu 2023).

    Content comes from the scan, style from the target site. Training sees images only: no site,
    age or sex; sites are read once, when it is over, to average the style codes of each site's
    fit scans. So scans of unseen sites are harmonized as well. Rendering to ``"own"`` takes each
    scan's own style code, not its site's: a reconstruction. Outside a scan's own mask the image
    passes through unchanged, in training as in harmonizing.

    Where this differs from the papers: pixels are folded into channels (`fold`), images are not
    augmented by flips and crops, which would leave the template's space, the networks are
    narrower, and each half of a batch is rendered in one of the two kinds of styles, so that the
    discriminator takes one step where the papers' takes two (a batch of 16 is their batch of 8).
    Not published, but needed to remove anything after an hour on a processor: a scan is also
    rendered in its own style from what a made-up scanner makes of it (`own`, `scanners`), which
    teaches content to leave the scanner out and style to hold it, and a style may have a place
    in the image (`field`). The `paper` preset has none of these.

    Parameters
    ----------
    images : int
        Length of the training, in images.
    batch_size : int
        Images in a batch, 2 or more; half for random styles, half for those of references.
    channels : int
        Channels of the first layer.
    style_dim : int
        Length of a style code.
    fold : int
        Side of the blocks of pixels folded into channels by the first layer; 1 as published.
    lr, mapping_lr : float
        Learning rates, of all networks and of the mapping network.
    style_weight, diversity, cycle, own, r1 : float
        Weights of the losses against the adversarial one's 1, see `baselines.style_gan.losses`;
        diversity's falls to 0 linearly.
    scanners : float
        Strength of the made-up scanner through which a rendering in the own style sees the
        content, see `harmbench.training.scanners`; 0 for none.
    field : int
        Degree of the polynomials of the place by which a style scales and shifts maps; 0 as
        published.
    ema : float
        Decay per step of the averaged weights, with which images are harmonized.
    clip : float
        Largest norm of a gradient; 0 for no limit, and then norms are not recorded.
    precision : str
        See `harmbench.training.loop.TrainConfig`.
    style : {"mean", "scan"}
        Whether the target's style is the mean over its fit scans or that of the one scan whose
        style is nearest to the mean.
    render : {"style", "difference"}
        ``"style"`` returns the rendering in the target's style, as published; ``"difference"`` the
        image plus that rendering minus the one in its own style, which keeps what both have lost.
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
    budget: ClassVar[frozenset[str]] = frozenset({"images", "precision"})
    inference: ClassVar[frozenset[str]] = frozenset({"style", "render"})

    def __init__(
        self,
        images: int = 24_000,
        batch_size: int = 8,
        channels: int = 24,
        style_dim: int = 64,
        fold: int = 2,
        lr: float = 1e-3,
        mapping_lr: float = 1e-5,
        style_weight: float = 1.0,
        diversity: float = 1.0,
        cycle: float = 100.0,
        own: float = 50.0,
        scanners: float = 2.0,
        field: int = 2,
        r1: float = 1.0,
        ema: float = 0.999,
        clip: float = 100.0,
        precision: Precision = "auto",
        style: Style = "mean",
        render: Render = "style",
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.channels = channels
        self.style_dim = style_dim
        self.fold = fold
        self.lr = lr
        self.mapping_lr = mapping_lr
        self.style_weight = style_weight
        self.diversity = diversity
        self.cycle = cycle
        self.own = own
        self.scanners = scanners
        self.field = field
        self.r1 = r1
        self.ema = ema
        self.clip = clip
        self.precision = precision
        self.style = style
        self.render = render
        self._history: dict[str, NDArray[Any]] = {}

    @property
    def info(self) -> MethodInfo:
        """Sees the sites when fitted, nothing but images when it harmonizes; any target."""
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
    def history(self) -> dict[str, NDArray[Any]]:
        """Losses, norms of gradients and the share of out-of-range values during training."""
        return self._history

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Train on all rows but the validation's, then average every site's style codes.

        Raises
        ------
        Diverged
            Where a loss is not finite or the renderings have lost their variance.
        HarmbenchError
            For an unknown reference site, a batch of one, a wrong `style`, or no row to train on.
        """
        require_at_least("batch_size", self.batch_size, 2)
        if self.style not in STYLES:
            raise unknown("style", self.style, STYLES)
        reference_rows(cohort, context.reference_site)
        self.reference_site, self.shape = context.reference_site, cohort.shape
        held_out = set(context.validation)
        kept = np.array([key not in held_out for key in cohort.keys])
        if not kept.any():
            raise HarmbenchError("all rows are held out for validation; none is left to train on")
        with threads(context.threads):
            trained = self._train(cohort.subset(kept), cohort.subset(~kept), context)
            self._keep(trained)
            self._learn_styles(cohort, context)
        return self

    def _train(self, cohort: Cohort, held_out: Cohort, context: FitContext) -> Networks:
        seed = seed_from("gan", context.seed)
        config = self._config
        weights = Weights(self.style_weight, self.cycle, self.own, self.scanners, self.r1)
        with seeded(seed):
            model = Networks(self.sizes)
        watched = Scans(held_out if len(held_out) else cohort, self.sizes)
        scans = Scans(cohort, self.sizes)
        trained = train(
            model,
            phases(model, weights, self.mapping_lr),
            Batches(scans, self.batch_size, seed, config.steps, self.diversity),
            config,
            seed=seed,
            device=context.device,
            progress=context.progress,
            description="style-encoding GAN",
            checkpoints=context.checkpoints,
            observe=partial(watch, scans=watched, log=context.log),
            observe_every=max(1, self.images // CHECKS),
        )
        self._history = dict(trained.curve)
        return trained.ema if isinstance(trained.ema, Networks) else model

    @property
    def sizes(self) -> Sizes:
        """What the shapes of the networks depend on."""
        return Sizes(max(self.shape), self.channels, self.style_dim, self.fold, self.field)

    @property
    def _config(self) -> TrainConfig:
        return TrainConfig(
            images=self.images,
            batch_size=self.batch_size,
            lr=self.lr,
            betas=(0.0, 0.99),
            ema=self.ema,
            clip=self.clip,
            precision=self.precision,
        )

    def _keep(self, model: Networks) -> None:
        self.generator, self.encoder = at_rest(model.generator), at_rest(model.style)

    def _learn_styles(self, cohort: Cohort, context: FitContext) -> None:
        site = cohort.column("site").astype(str)
        self.sites = cohort.sites
        encoder = self.encoder.to(context.device)
        pieces = Scans(cohort, self.sizes).pieces(context.device)
        codes = torch.cat([encoder(images).cpu() for images, _ in pieces])
        self.encoder.cpu()
        means = torch.stack([codes[torch.from_numpy(site == s)].mean(0) for s in self.sites])
        nearest = [
            codes[int(torch.where(torch.from_numpy(site == s), distance, torch.inf).argmin())]
            for s, distance in zip(self.sites, torch.cdist(means, codes), strict=True)
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
            For a target that the fit has not seen, or images of another shape.
        """
        if cohort.shape != self.shape:
            raise HarmbenchError(
                f"gan was fitted on images of shape {self.shape}; these are {cohort.shape}; "
                "fit it on images of that shape"
            )
        if self.render not in RENDERS:
            raise unknown("render", self.render, RENDERS)
        code = None if target == OWN_SITE else self._target_style(target).to(context.device)
        out = cohort.images.copy()
        height, width = self.shape
        generator = self.generator.to(context.device)
        encoder = self.encoder.to(context.device)
        with threads(context.threads):
            pieces = Scans(cohort, self.sizes).pieces(context.device)
            for i, (images, _) in enumerate(pieces):
                rendered = self._rendered(generator, encoder, images, code)
                rows = slice(i * ROWS_AT_ONCE, i * ROWS_AT_ONCE + len(images))
                out[rows] = (rendered[:, 0, :height, :width].cpu().numpy() + 1) / 2
        generator.cpu()
        encoder.cpu()
        return np.where(cohort.mask, out, cohort.images)

    def _rendered(
        self, generator: Generator, encoder: Encoder, images: Tensor, code: Tensor | None
    ) -> Tensor:
        if code is None:
            return generator(images, encoder(images))
        rendered = generator(images, code.expand(len(images), -1))
        if self.render == "style":
            return rendered
        return images + rendered - generator(images, encoder(images))

    def _target_style(self, target: str | None) -> Tensor:
        if self.style not in STYLES:
            raise unknown("style", self.style, STYLES)
        name = target or self.reference_site
        if name not in self.sites:
            raise unknown("target site", name, self.sites)
        return self.styles[self.style][[self.sites.index(name)]]

    def save(self, folder: Path) -> None:
        """Write generator, style encoder, the sites' styles and the training's history.

        The mapping network and the discriminator end with the training.
        """
        arrays = (
            under("generator", self.generator.state_dict())
            | under("encoder", self.encoder.state_dict())
            | under("styles", self.styles)
        )
        config = {
            "params": self.params(),
            "reference_site": self.reference_site,
            "sites": self.sites,
            "shape": list(self.shape),
        }
        history = {f"history.{name}": values for name, values in self._history.items()}
        save_model(folder, {k: v.numpy() for k, v in arrays.items()} | history, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        arrays, config = load_model(folder)
        method = cls(**config["params"])
        method.reference_site, method.sites = config["reference_site"], config["sites"]
        method.shape = tuple(config["shape"])
        start = "history."
        method._history = {
            k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)
        }
        tensors = {k: torch.from_numpy(v) for k, v in arrays.items() if not k.startswith(start)}
        with seeded(0):
            generator, encoder = Generator(method.sizes), Encoder(method.sizes, method.style_dim)
        generator.load_state_dict(below("generator", tensors))
        encoder.load_state_dict(below("encoder", tensors))
        method.generator, method.encoder = at_rest(generator), at_rest(encoder)
        method.styles = below("styles", tensors)
        return method
