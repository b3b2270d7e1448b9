"""The disentangled diffusion autoencoder as a method, and its variant without age and sex."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddae.diffusion import Sampler, Schedule
from ddae.labels import SEXES, LabelCoding
from ddae.networks import DDAENetwork, Merge, Shape
from ddae.objective import Objective, Prediction
from ddae.operator import SiteOperator
from ddae.rendering import Code, Renderer
from ddae.selection import BestOnValidation
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import OWN_SITE, ApplyContext, FitContext, MethodInfo
from harmbench.errors import unknown
from harmbench.files.models import load_model, save_model
from harmbench.seeding import seed_from
from harmbench.training.checkpoint import add_prefix, strip_prefix, weight_arrays, with_weights
from harmbench.training.loop import rows_at
from harmbench.training.method import TrainedMethod
from harmbench.training.precision import Precision
from harmbench.training.process_state import seeded, threads

Made = TypeVar("Made", Objective, Renderer, Shape)

COVARIATES = frozenset({"age", "sex"})
VALIDATIONS = 20
"""Number of evaluations of the validation rows during a training."""


@dataclass(eq=False)
class DDAE(TrainedMethod):
    """Disentangled diffusion autoencoder (Ijishakin 2024, arXiv 2408.15890).

    A diffusion model of the images is conditioned on a latent of the known labels (age, sex, site)
    and on a latent that an encoder computes from the image. An image is harmonized by inverting it
    to noise with its own labels and rendering this noise with the target site.

    Choices that the paper does not describe are arguments. Their defaults follow the nearest
    published recipe (Preechakul 2022, arXiv 2111.15640) at a size for two CPU cores.

    Parameters
    ----------
    channels, multipliers, blocks, patch, attention, dropout
        Sizes of the noise predictor and the encoder, see `ddae.networks.Shape`.
    known, unknown : int
        Lengths of the latents of the labels, z_kappa, and of the image, z_upsilon.
    merge : {"project", "sum", "separate"}
        How the latents are combined, see `ddae.networks.DDAENetwork`.
    kappa_std : float
        Standard deviation of Gaussian noise on z_kappa in training: its "known variance".
    code_map, map_level : int
        Channels of a map that the encoder returns in addition to z_upsilon, and the level of the
        network that computes it; 0 channels as in the paper.
    prediction : {"noise", "velocity"}
        What the network predicts. The loss is its mean squared error.
    schedule : {"linear", "cosine"}
        See `ddae.diffusion.angles`.
    images : int
        Length of the training, in images.
    batch_size, lr, ema, precision
        See `harmbench.training.loop.TrainConfig`.
    adversary : float
        Weight of a classifier that predicts the site from the image's latents, with a reversed
        gradient for the encoder.
    scanners : float
        Strength of the simulated scanner that is applied to the encoder's input in training, see
        `harmbench.training.scanners.random_scanner`.
    operator : int
        If not 0, the networks receive images that an operator has mapped to the reference site.
        Its coefficients are polynomials of this degree, see `ddae.operator.SiteOperator`.
    balance : bool
        Whether scans are weighted such that all sites have the same distribution of age and sex.
    validate : bool
        Whether a tenth of the subjects is not trained on and the weights with the lowest error on
        these subjects are kept, see `ddae.selection`.
    untold : float
        Share of the training images whose age and sex are hidden.
    blind : bool
        Whether images are harmonized without age and sex.
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
    inference: ClassVar[frozenset[str]] = frozenset(
        {"sampler", "steps", "depth", "spacing", "code"}
    )

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 3)
    blocks: int = 1
    patch: int = 2
    attention: int = 8
    dropout: float = 0.1
    known: int = 64
    unknown: int = 64
    merge: Merge = "separate"
    kappa_std: float = 0.0
    code_map: int = 0
    map_level: int = 1
    prediction: Prediction = "velocity"
    schedule: Schedule = "cosine"
    images: int = 40_000
    batch_size: int = 16
    lr: float = 5e-4
    ema: float = 0.999
    precision: Precision = "auto"
    adversary: float = 0.0
    scanners: float = 0.0
    operator: int = 0
    balance: bool = False
    validate: bool = True
    untold: float = 0.0
    blind: bool = False
    sampler: Sampler = "multistep"
    steps: int = 12
    depth: float = 1.0
    spacing: float = 2.0
    code: Code = "inverted"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.multipliers = tuple(self.multipliers)

    @property
    def info(self) -> MethodInfo:
        """The method is fitted with age, sex and site. The blind variant harmonizes with site."""
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

    def skip(self, cohort: Cohort) -> str | None:
        """Return why the method cannot run: it needs slices and the columns age and sex."""
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
        rows, held_out = self._split(cohort, context)
        self.sites_operator = self._operator(rows)
        data = self._batch(rows, self.balance)
        objective = self._made(Objective)
        validation = BestOnValidation(objective, self._batch(held_out, False), context.checkpoints)
        with seeded(seed_from("ddae", "weights", context.seed)):
            network = self._network()

        def batches(step: int) -> dict[str, Tensor]:
            at = rows_at(step, len(rows), self.batch_size, context.seed)
            return {name: values[at] for name, values in data.items()}

        self.network = self._train(
            network,
            objective,
            batches,
            context,
            seed=context.seed,
            description=self.info.name,
            observe=validation if self.validate and len(held_out) else None,
            checks=VALIDATIONS,
            schedule="cosine",
            warmup=min(200 * self.batch_size, self.images // 10),
            clip=1.0,
        )
        if validation.errors:
            validation.restore_best(self.network)
            self._history["validation"] = validation.curve(self._history["images"])
        return self

    def _batch(self, rows: Cohort, balance: bool) -> dict[str, Tensor]:
        """Return rows as one batch of the objective."""
        labels = self.labels.tensors(rows)
        weight = self.labels.balance(rows) if balance else np.ones(len(rows))
        weights = {"weight": torch.as_tensor(weight, dtype=torch.float32)}
        return {"image": self.seen(rows, labels), **labels, **weights}

    def _split(self, cohort: Cohort, context: FitContext) -> tuple[Cohort, Cohort]:
        """Return the rows to train on and the rows to validate on, all with age and sex."""
        ages = cohort.column("age").astype(float)
        known = ~np.isnan(ages) & np.isin(cohort.column("sex").astype(str), list(SEXES))
        if not known.all():
            context.log.info("%d scans without age or sex are left out", (~known).sum())
        validation = set(context.validation) if self.validate else set()
        held_out = np.array([key in validation for key in cohort.keys], dtype=bool)
        return cohort.subset(known & ~held_out), cohort.subset(known & held_out)

    def _operator(self, rows: Cohort) -> SiteOperator:
        if not self.operator:
            return SiteOperator.none(len(self.labels.sites), self.size)
        labels = {name: values.numpy() for name, values in self.labels.tensors(rows).items()}
        age, sex = labels["age"].astype(float), labels["sex"].astype(float)
        return SiteOperator.learn(
            np.array(rows.images),
            np.array(rows.mask),
            labels["site"],
            np.stack([age, age**2, sex], axis=1),
            self.labels.sites.index(self.reference_site),
            self.operator,
        )

    def _network(self) -> DDAENetwork:
        return DDAENetwork(
            self._made(Shape, size=self.size),
            len(self.labels.sites),
            known=self.known,
            unknown=self.unknown,
            merge=self.merge,
            kappa_std=self.kappa_std,
            code_map=self.code_map,
            map_level=self.map_level,
            adversary=self.adversary > 0,
        )

    def seen(self, cohort: Cohort, labels: dict[str, Tensor]) -> Tensor:
        """Return the input images of the networks, shape (n, 1, height, width)."""
        images = self.sites_operator.to_reference(np.array(cohort.images), labels["site"].numpy())
        return torch.as_tensor(np.where(cohort.mask, images, 0))[:, None]

    def renderer(self, context: ApplyContext) -> Renderer:
        """Return the renderer on the device of the context."""
        return self._made(Renderer, network=self.network.to(context.device))

    def _made(self, kind: type[Made], **others: Any) -> Made:
        """Return a dataclass whose fields are arguments of this method, except the others."""
        names = {field.name for field in fields(kind)} - set(others)
        return kind(**others, **{name: getattr(self, name) for name in names})

    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the images rendered at the target site, shape (n, height, width).

        They are 0 outside each scan's own mask.
        """
        if len(cohort) == 0:
            return np.empty_like(cohort.images)
        site = None if target == OWN_SITE else (target or self.reference_site)
        own = self.labels.tensors(cohort, None, not self.blind, context.log)
        wanted = self.labels.tensors(cohort, site, not self.blind, context.log)
        seeds = [seed_from("code", context.seed, *key) for key in cohort.keys]
        with threads(context.threads):
            out = self.renderer(context).run(
                self.seen(cohort, own), own, wanted, seeds, context.progress, self.info.name
            )
        rendered = self.sites_operator.from_reference(out[:, 0].numpy(), wanted["site"].numpy())
        return np.where(cohort.mask, rendered, 0).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write the averaged weights, the label coding, the operator and the training curve."""
        arrays = weight_arrays("net", self.network) | add_prefix("history", self._history)
        if self.operator:
            arrays |= add_prefix("operator", vars(self.sites_operator))
        config = {
            "params": self.params(),
            "size": self.size,
            "labels": asdict(self.labels),
            "reference_site": self.reference_site,
        }
        save_model(folder, arrays, config)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the method that `save` wrote."""
        arrays, config = load_model(folder)
        method = cls(**config["params"])
        method.size = tuple(config["size"])
        method.labels = LabelCoding(**config["labels"])
        method.reference_site = config["reference_site"]
        method._history = strip_prefix("history", arrays)
        operator = strip_prefix("operator", arrays)
        method.sites_operator = (
            SiteOperator(**operator)
            if operator
            else SiteOperator.none(len(method.labels.sites), method.size)
        )
        method.network = with_weights(method._network(), "net", arrays)
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
"""The options that performed best on the development phantom, see docs/lab-notes.md."""


def ddae_blind(**params: Any) -> DDAE:
    """Return the variant that harmonizes without age and sex, with the options `BLIND`."""
    return DDAE(**{**BLIND, **params})
