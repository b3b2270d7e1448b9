"""The disentangled diffusion autoencoder as a harmonizer, and its variant blind to labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddae.diffusion import Sampler, Schedule
from ddae.labels import LOG, LabelCoding
from ddae.networks import DDAENetwork, Merge, Shape
from ddae.objective import Objective
from ddae.operator import SiteOperator
from ddae.rendering import Code, Renderer
from ddae.selection import BestOnValidation
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext, Harmonizer, MethodInfo
from harmbench.errors import unknown
from harmbench.files.models import load_model, save_model
from harmbench.seeding import seed_from
from harmbench.training.checkpoint import below, under
from harmbench.training.layers import at_rest
from harmbench.training.loop import TrainConfig, rows_at, train
from harmbench.training.precision import Precision
from harmbench.training.process_state import seeded, threads

COVARIATES = frozenset({"age", "sex"})
VALIDATIONS = 20
"""Looks at the validation rows in a training."""


class DDAE(Harmonizer):
    """Disentangled diffusion autoencoder (Ijishakin 2024, arXiv 2408.15890).

    A diffusion model of the images, given a latent of the known labels (age, sex, site) and a
    latent that an encoder reads off the image. An image is harmonized by inverting it to noise
    under its own labels and rendering that noise under the labels with the target's site.

    What the paper leaves open is an argument; the defaults are the nearest published recipe
    (Preechakul 2022, arXiv 2111.15640) at a size for two processor cores.

    Parameters
    ----------
    channels, multipliers, blocks, patch, attention, dropout
        Sizes of noise predictor and encoder, see `ddae.networks.Shape`.
    known, unknown : int
        Lengths of the two latents, z_kappa and z_upsilon.
    merge : {"project", "sum", "separate"}
        How they are joined, see `ddae.networks.DDAENetwork`.
    kappa_std : float
        Standard deviation of Gaussian noise on z_kappa in training: its "known variance".
    code_map, map_level : int
        Channels of a map that the encoder returns beside z_upsilon, and the level of the grid that
        it is made on; 0 channels for the paper's vector alone.
    prediction : {"noise", "velocity"}
        What the network predicts; the loss is its mean squared error.
    schedule : {"linear", "cosine"}
        See `ddae.diffusion.angles`.
    images : int
        Length of the training, in images seen.
    batch_size, lr, ema, precision
        See `harmbench.training.loop.TrainConfig`.
    adversary : float
        Weight of a classifier that reads the site from the image's latents, its gradient reversed.
    scanners : float
        Strength of the made-up scanner that the encoder sees each image through in training, see
        `harmbench.training.scanners.random_scanner`.
    operator : int
        Where over 0: the networks see images brought to the reference site by an operator whose
        coefficients are polynomials of that degree, see `ddae.operator.SiteOperator`.
    balance : bool
        Weight the scans of the fit so that all sites have one distribution of age and sex.
    validate : bool
        Leave a tenth of the subjects out of the training and keep the weights with the lowest
        error on them, see `ddae.selection`.
    untold : float
        Share of the training images of which age and sex are not told.
    blind : bool
        Harmonize without age and sex.
    sampler, steps, depth, spacing, code
        See `ddae.rendering.Renderer`.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "smoke": {"images": 1_500, "channels": 16, "multipliers": (1, 2), "patch": 4, "steps": 4},
        "paper": {
            "images": 2_000_000,
            "channels": 32,
            "multipliers": (1, 2, 3, 4),
            "blocks": 2,
            "patch": 1,
            "attention": 16,
            "dropout": 0.1,
            "known": 512,
            "unknown": 512,
            "prediction": "noise",
            "schedule": "linear",
            "batch_size": 64,
            "lr": 1e-4,
            "ema": 0.9999,
            "sampler": "ddim",
            "steps": 20,
            "spacing": 1.0,
        },
    }
    budget: ClassVar[frozenset[str]] = frozenset({"images", "precision"})
    inference: ClassVar[frozenset[str]] = frozenset(
        {"sampler", "steps", "depth", "spacing", "code"}
    )

    def __init__(
        self,
        channels: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 3),
        blocks: int = 1,
        patch: int = 2,
        attention: int = 8,
        dropout: float = 0.1,
        known: int = 64,
        unknown: int = 64,
        merge: Merge = "separate",
        kappa_std: float = 0.0,
        code_map: int = 0,
        map_level: int = 1,
        prediction: Literal["noise", "velocity"] = "velocity",
        schedule: Schedule = "cosine",
        images: int = 40_000,
        batch_size: int = 16,
        lr: float = 5e-4,
        ema: float = 0.999,
        precision: Precision = "auto",
        adversary: float = 0.0,
        scanners: float = 0.0,
        operator: int = 0,
        balance: bool = False,
        validate: bool = True,
        untold: float = 0.0,
        blind: bool = False,
        sampler: Sampler = "multistep",
        steps: int = 12,
        depth: float = 1.0,
        spacing: float = 2.0,
        code: Code = "inverted",
    ) -> None:
        self.channels, self.multipliers = channels, tuple(multipliers)
        self.blocks, self.patch = blocks, patch
        self.attention, self.dropout = attention, dropout
        self.known, self.unknown, self.merge = known, unknown, merge
        self.kappa_std, self.code_map, self.map_level = kappa_std, code_map, map_level
        self.prediction, self.schedule = prediction, schedule
        self.images, self.batch_size, self.lr, self.ema = images, batch_size, lr, ema
        self.precision = precision
        self.adversary, self.scanners = adversary, scanners
        self.operator, self.balance = operator, balance
        self.validate, self.untold, self.blind = validate, untold, blind
        self.sampler, self.steps, self.code = sampler, steps, code
        self.depth, self.spacing = depth, spacing
        self._history: dict[str, NDArray[Any]] = {}

    @property
    def info(self) -> MethodInfo:
        """Sees age, sex and site at its fit, and unless blind when harmonizing, too; any site."""
        return MethodInfo(
            name="ddae-blind" if self.blind else "ddae",
            label="DDAE (blind)" if self.blind else "DDAE",
            summary="Inverts each image by a conditional diffusion model and renders it anew"
            + (", without age and sex." if self.blind else "."),
            doi="arXiv:2408.15890",
            fit_sees=COVARIATES | {"site"},
            harmonize_sees=frozenset({"site"}) if self.blind else COVARIATES | {"site"},
            targets="any",
            stochastic=True,
        )

    @property
    def history(self) -> dict[str, NDArray[Any]]:
        """Images seen and the parts of the loss."""
        return self._history

    def skip(self, cohort: Cohort) -> str | None:
        """Return why it cannot run: it needs slices, ages and sexes, and two sites."""
        reason = super().skip(cohort)
        if reason is None and COVARIATES - set(cohort.participants):
            reason = "needs the columns age and sex"
        return reason

    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Train the networks on the fit part."""
        if context.reference_site not in cohort.sites:
            raise unknown("reference site", context.reference_site, cohort.sites)
        self.reference_site = context.reference_site
        self.size = (int(cohort.shape[0]), int(cohort.shape[1]))
        self.labels = LabelCoding.learn(cohort)
        rows, held = self._trained_on(cohort, context)
        self.sites_operator = self._operator(rows)
        data = self._batch(rows, self.balance)
        objective = Objective(
            self.prediction, self.schedule, self.adversary, self.scanners, self.untold
        )
        judge = BestOnValidation(objective, self._batch(held, False), context.checkpoints)
        with seeded(seed_from("ddae", "weights", context.seed)):
            network = self._network()

        def batches(step: int) -> dict[str, Tensor]:
            at = rows_at(step, len(rows), self.batch_size, context.seed)
            return {name: values[at] for name, values in data.items()}

        with threads(context.threads):
            trained = train(
                network,
                objective,
                batches,
                TrainConfig(
                    images=self.images,
                    batch_size=self.batch_size,
                    lr=self.lr,
                    schedule="cosine",
                    warmup=min(200 * self.batch_size, self.images // 10),
                    ema=self.ema,
                    clip=1.0,
                    precision=self.precision,
                ),
                seed=context.seed,
                device=context.device,
                progress=context.progress,
                description=self.info.name,
                checkpoints=context.checkpoints,
                observe=judge if self.validate and len(held) else None,
                observe_every=max(self.images // VALIDATIONS, 1),
            )
        best = trained.ema if isinstance(trained.ema, DDAENetwork) else network
        self.network = at_rest(best)
        self._history = dict(trained.curve)
        if judge.errors:
            judge.take(self.network)
            self._history["validation"] = judge.curve(trained.curve["images"])
        return self

    def _batch(self, rows: Cohort, balance: bool) -> dict[str, Tensor]:
        """Return rows as the objective takes them."""
        told = self.labels.tensors(rows, None, True, LOG)
        weight = self.labels.balance(rows) if balance else np.ones(len(rows))
        weights = {"weight": torch.as_tensor(weight, dtype=torch.float32)}
        return {"image": self.seen(rows, told), **told, **weights}

    def _trained_on(self, cohort: Cohort, context: FitContext) -> tuple[Cohort, Cohort]:
        """Return the rows to train on and those to validate on; rows without labels are in none."""
        ages = cohort.column("age").astype(float)
        known = ~np.isnan(ages) & np.isin(cohort.column("sex").astype(str), ("F", "M"))
        if not known.all():
            context.log.info("%d scans without age or sex are left out", (~known).sum())
        held = set(context.validation) if self.validate else set()
        aside = np.array([key in held for key in cohort.keys], dtype=bool)
        return cohort.subset(known & ~aside), cohort.subset(known & aside)

    def _operator(self, rows: Cohort) -> SiteOperator:
        if not self.operator:
            return SiteOperator.none(len(self.labels.sites), self.size)
        told = self.labels.tensors(rows, None, True, LOG)
        age, sex = told["age"].numpy().astype(float), told["sex"].numpy().astype(float)
        return SiteOperator.learn(
            np.array(rows.images),
            np.array(rows.mask),
            told["site"].numpy(),
            np.stack([age, age**2, sex], axis=1),
            self.labels.sites.index(self.reference_site),
            self.operator,
        )

    def _network(self) -> DDAENetwork:
        return DDAENetwork(
            Shape(
                self.size,
                self.channels,
                self.multipliers,
                self.blocks,
                self.patch,
                self.attention,
                self.dropout,
            ),
            len(self.labels.sites),
            known=self.known,
            unknown=self.unknown,
            merge=self.merge,
            kappa_std=self.kappa_std,
            extra=self.code_map,
            reach=self.map_level,
            adversary=self.adversary > 0,
        )

    def seen(self, cohort: Cohort, own: dict[str, Tensor]) -> Tensor:
        """Return the images as the networks see them, shape (n, 1, height, width)."""
        images = self.sites_operator.to_reference(np.array(cohort.images), own["site"].numpy())
        return torch.as_tensor(np.where(cohort.mask, images, 0))[:, None]

    def renderer(self, context: ApplyContext) -> Renderer:
        """Return what encodes, inverts and renders, on the context's device."""
        return Renderer(
            self.network.to(context.device),
            self.prediction,
            self.schedule,
            self.sampler,
            self.steps,
            self.depth,
            self.spacing,
            self.code,
        )

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the images rendered under the target's site, shape (n, height, width).

        Outside each scan's own mask the images stay 0, as they came.
        """
        if len(cohort) == 0:
            return np.empty_like(cohort.images)
        site = None if target == OWN_SITE else (target or self.reference_site)
        told = not self.blind
        own = self.labels.tensors(cohort, None, told, context.log)
        wanted = self.labels.tensors(cohort, site, told, context.log)
        renderer = self.renderer(context)
        seeds = [seed_from("code", context.seed, *key) for key in cohort.keys]
        with threads(context.threads):
            out = renderer.run(
                self.seen(cohort, own),
                own,
                wanted,
                seeds,
                context.progress,
                self.info.name,
            )
        rendered = self.sites_operator.from_reference(out[:, 0].numpy(), wanted["site"].numpy())
        return np.where(cohort.mask, rendered, 0).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write the averaged weights, the label coding and the curve."""
        weights = {k: v.cpu().numpy() for k, v in self.network.state_dict().items()}
        arrays = under("net", weights) | under("history", self._history)
        if self.operator:
            arrays |= under("operator", vars(self.sites_operator))
        config = {
            "params": self.params(),
            "size": self.size,
            "labels": self.labels.to_json(),
            "reference_site": self.reference_site,
        }
        save_model(folder, arrays, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote."""
        arrays, config = load_model(folder)
        method = cls(**config["params"])
        method.size = tuple(config["size"])
        method.labels = LabelCoding.from_json(config["labels"])
        method.reference_site = config["reference_site"]
        method._history = below("history", arrays)
        fields = below("operator", arrays)
        method.sites_operator = (
            SiteOperator(**fields)
            if fields
            else SiteOperator.none(len(method.labels.sites), method.size)
        )
        method.network = at_rest(method._network())
        weights = {k: torch.from_numpy(v) for k, v in below("net", arrays).items()}
        method.network.load_state_dict(weights)
        return method


BLIND: dict[str, Any] = {
    "blind": True,
    "untold": 0.5,
    "balance": True,
    "validate": False,
    "operator": 5,
    "code_map": 8,
    "dropout": 0.0,
    "scanners": 1.0,
    "images": 100_000,
}
"""The remedies that measurement on the development phantom favors, see docs/lab-notes.md."""


def ddae_blind(**params: Any) -> DDAE:
    """Return the variant that harmonizes without age and sex, with what measurement favors."""
    return DDAE(**{**BLIND, **params})
