"""The base class of the methods that train networks."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import FitContext, Harmonizer
from harmbench.errors import HarmbenchError, unknown
from harmbench.training.layers import for_inference
from harmbench.training.loop import Batches, Loss, Model, Observe, Phase, train
from harmbench.training.precision import Precision
from harmbench.training.process_state import threads
from harmbench.training.settings import TrainConfig


class TrainedMethod(Harmonizer):
    """A method that trains networks; the attributes are the arguments that all of them share."""

    budget: ClassVar[frozenset[str]] = frozenset({"images", "precision"})

    images: int
    batch_size: int
    lr: float
    ema: float
    precision: Precision
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        self._history: dict[str, NDArray[Any]] = {}

    @property
    def history(self) -> dict[str, NDArray[Any]]:
        """Numbers of images, the loss and its parts."""
        return self._history

    def _train(
        self,
        model: Model,
        phases: Loss | list[Phase],
        batches: Batches,
        context: FitContext,
        *,
        seed: int,
        description: str,
        observe: Observe | None,
        checks: int,
        **options: Any,
    ) -> Model:
        """Train a model, keep its history and return the averaged model for inference.

        `observe` is called `checks` times; `options` are further arguments of `TrainConfig`.
        """
        config = TrainConfig(
            images=self.images,
            batch_size=self.batch_size,
            lr=self.lr,
            ema=self.ema,
            precision=self.precision,
            **options,
        )
        with threads(context.threads):
            trained = train(
                model,
                phases,
                batches,
                config,
                seed=seed,
                device=context.device,
                progress=context.progress,
                description=description,
                checkpoints=context.checkpoints,
                observe=observe,
                observe_every=max(1, self.images // checks),
            )
        self._history = dict(trained.curve)
        return for_inference(trained.ema or model)

    def _require_choice(self, name: str, choices: Any) -> None:
        """Raise an error if an argument is none of the values of a `Literal`."""
        value = getattr(self, name)
        if value not in get_args(choices):
            raise unknown(f"{name} of the {self.info.name}", value, get_args(choices))

    def _require_shape(self, cohort: Cohort) -> None:
        if cohort.shape != self.shape:
            raise HarmbenchError(
                f"{self.info.name} was fitted on images of shape {self.shape} and cannot harmonize "
                f"images of shape {cohort.shape}; resample them or fit it again"
            )
