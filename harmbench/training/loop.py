"""The training loop: Lightning Fabric, progress in images, averaged weights, exact resuming.

Everything random in step k is seeded by the seed of the training and k, and the batch of step k is
a pure function of k. The state of a training is therefore its tensors and one number, and an
interrupted training ends with the same bits as an uninterrupted one.

With several processes (`harmbench.training.group`) each process takes its share of every batch, and
the gradients and the parts of the loss are averaged over the processes. A loss that is a mean over
the images of a batch keeps its meaning. What couples images (pairs, strata, batch statistics) does
so within a share.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harmbench.errors import HarmbenchError
from harmbench.progress import Progress, Task
from harmbench.seeding import seed_from
from harmbench.training.checkpoint import Checkpoint, Curve, restore_training, training_state
from harmbench.training.group import Group
from harmbench.training.precision import resolve_precision
from harmbench.training.process_state import interrupts, seeded
from harmbench.training.settings import TrainConfig

Model = TypeVar("Model", bound=nn.Module)

Loss = Callable[[Any, Any, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
"""``loss(model, batch, generator)`` returns the number to minimize and its named parts."""

Batches = Callable[[int], Any]
"""``batches(step)`` returns the batch of a step. It must be a pure function of the step."""

Observe = Callable[[Any, int], None]
"""``observe(model, images)`` reads the model in evaluation mode and must not change it."""


class Diverged(HarmbenchError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class Phase:
    """A loss and the parameters that it changes. An adversarial training has several phases.

    Attributes
    ----------
    loss : callable
        See `Loss`.
    parameters : sequence of dict or None
        Parameter groups as in `torch.optim`; None for all parameters of the model. Other
        parameters get no gradient.
    name : str
        Prefix of the loss and its parts in the curve, ``""`` if there is only one phase.
    """

    loss: Loss
    parameters: Sequence[dict[str, Any]] | None = None
    name: str = ""


class Trained(NamedTuple, Generic[Model]):
    """Result of a training, which also changes the model in place.

    Attributes
    ----------
    curve : mapping of str to ndarray
        ``"images"`` and the mean of each part of the loss since the previous point.
    ema : Module or None
        A copy of the model with averaged weights, if `TrainConfig.ema` is not 0.
    """

    curve: Mapping[str, NDArray]
    ema: Model | None


def rows_at(step: int, n: int, batch_size: int, seed: int) -> Tensor:
    """Return the rows of the batch of a step, such that each pass contains all `n` rows once.

    Returns
    -------
    Tensor of int64, shape (batch_size,)
        A batch may contain the end of one pass and the start of the next.
    """
    images = torch.arange(step * batch_size, (step + 1) * batch_size)
    rows = torch.empty_like(images)
    for epoch in (images // n).unique().tolist():
        generator = torch.Generator().manual_seed(seed_from("order", seed, epoch))
        here = images // n == epoch
        rows[here] = torch.randperm(n, generator=generator)[images[here] % n]
    return rows


def train(
    model: Model,
    phases: Loss | Sequence[Phase],
    batches: Batches,
    config: TrainConfig,
    *,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
    description: str = "training",
    checkpoints: Path | None = None,
    observe: Observe | None = None,
    observe_every: int = 0,
) -> Trained[Model]:
    """Train a model, or continue a training that was interrupted.

    Parameters
    ----------
    model : Module
        Changed in place. The caller initializes its weights (see `seeded`).
    phases : callable or sequence of Phase
        A loss, or several phases that take turns on every batch.
    batches : callable
        See `Batches`. All tensors of a batch are moved to the device. With several processes, a
        batch whose tensors do not all have the shape (n, ...) needs a method
        ``only(rows: slice)``.
    config : TrainConfig
        Length and optimizer.
    seed : int
        Seed of all random numbers in the loss and the layers; the global state of torch is
        restored. Each of several processes draws different numbers.
    device : str
        Device name, such as ``"cpu"`` or ``"cuda:1"``.
    progress, description : Progress, str
        Shows the progress, in images, under this name.
    checkpoints : Path or None
        Folder of the saved state, which is written regularly, after Ctrl-C and at the end. All
        processes must see it; the first one writes.
    observe, observe_every : callable, int
        Called by the first process after at least `observe_every` images each and at the end, with
        the averaged model if there is one. State of its own is not saved.

    Returns
    -------
    Trained

    Raises
    ------
    Diverged
        If the loss is not finite.
    HarmbenchError
        If the folder holds the state of a different training, or the batch size is not a multiple
        of the number of processes.
    KeyboardInterrupt
        After the state is saved.
    """
    run = _Run(model, [Phase(phases)] if callable(phases) else phases, config, seed, device)
    saved = None
    if checkpoints:
        saved = Checkpoint(checkpoints, run.identity(), config.checkpoint_minutes)
        run.step, tensors = saved.load()
        if run.step:
            restore_training(tensors, run.models, run.optimizers, run.curve)
    run.synchronize()
    with (
        interrupts() as interrupted,
        (progress or Progress()).task(description, config.steps * config.batch_size) as task,
    ):
        task.advance(run.step * config.batch_size)
        while run.step < config.steps:
            run.advance(batches(run.step), task)
            images = run.step * config.batch_size
            last = run.step == config.steps
            if observe and run.group.first and (last or images % observe_every < config.batch_size):
                observe(run.models.get("ema", model).eval(), images)
            stop = run.group.largest(interrupted.is_set())
            if saved and run.group.first and (saved.due() or last or stop):
                saved.save(run.step, training_state(run.models, run.optimizers, run.curve))
            if stop:
                raise KeyboardInterrupt
        if run.group.largest(interrupted.is_set()):  # while the last state was saved
            raise KeyboardInterrupt
    return Trained(run.curve.arrays(config.batch_size), run.models.get("ema"))


class _Run(Generic[Model]):
    """A training: its models, optimizers, loss curve and number of steps done."""

    def __init__(
        self, model: Model, phases: Sequence[Phase], config: TrainConfig, seed: int, device: str
    ) -> None:
        self.group = Group.current()
        if config.batch_size % self.group.size:
            raise HarmbenchError(
                f"a batch of {config.batch_size} cannot be shared equally by {self.group.size} "
                "processes; choose a number of processes (--devices) that divides it, or another "
                "batch_size"
            )
        # This memory format makes convolutions on a CPU fastest.
        self.model = model.to(memory_format=torch.channels_last)
        precision = resolve_precision(config.precision, device)
        self.phases, self.config, self.seed = phases, replace(config, precision=precision), seed
        self.fabric = _fabric(device, precision)
        self.optimizers = [self._optimizer(phase) for phase in phases]
        self.wrapped, *self.steppers = self.fabric.setup(model, *self.optimizers)
        self.models = {"model": model}
        if config.ema:
            self.models["ema"] = deepcopy(model).eval().requires_grad_(False)
        self.curve = Curve(config.steps)
        self.step = 0

    def _optimizer(self, phase: Phase) -> torch.optim.Optimizer:
        config = self.config
        optimizer = torch.optim.AdamW(
            phase.parameters or [{"params": list(self.model.parameters())}],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def synchronize(self) -> None:
        """Start all processes from the state of the first one."""
        if self.group.largest(self.step) != -self.group.largest(-self.step):
            raise HarmbenchError(
                "the processes of this training found different saved states; --out must be a "
                "folder that all of them see"
            )
        for model in self.models.values():
            self.group.copy(model.state_dict().values())

    def advance(self, batch: Any, task: Task) -> None:
        """Train all phases on one batch."""
        rank = (self.group.rank,) if self.group.size > 1 else ()
        step_seed = seed_from("step", self.seed, self.step, *rank)
        generator = torch.Generator(self.fabric.device).manual_seed(step_seed)
        batch = self.fabric.to_device(self.group.share(batch))
        self.model.train()
        parts: dict[str, Tensor] = {}
        with seeded(step_seed, self.fabric.device):
            for phase, optimizer in zip(self.phases, self.steppers, strict=True):
                parts |= self._descend(phase, optimizer, batch, generator)
        self.group.copy(self.model.buffers())
        if "ema" in self.models:
            self._average(self.models["ema"])
        self.step += 1
        if not self.curve.add(self.step, parts):
            raise Diverged(
                f"the training loss is not a finite number after {self.step} steps; "
                f"lower the learning rate ({self.config.lr:g}) or set a gradient clip"
            )
        task.advance(self.config.batch_size, self.curve.note)

    def _descend(
        self, phase: Phase, optimizer: Any, batch: Any, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Take one step of a phase and return its loss and parts."""
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.config.rate(self.step)
        changed = [p for group in optimizer.param_groups for p in group["params"]]
        with _only_gradients_of(self.model, changed):
            with self.fabric.autocast():
                loss, parts = phase.loss(self.wrapped, batch, generator)
            self.fabric.backward(loss)
        parts = self.group.averaged(changed, {"loss": loss, **parts})
        if self.config.clip:
            # The curve finds a norm that is not finite, and its error says what to do.
            parts["gradient"] = self.fabric.clip_gradients(
                self.wrapped, optimizer, max_norm=self.config.clip, error_if_nonfinite=False
            )
        optimizer.step()
        optimizer.zero_grad()
        prefix = f"{phase.name}." if phase.name else ""
        return {f"{prefix}{name}": value.detach() for name, value in parts.items()}

    @torch.no_grad()
    def _average(self, ema: Model) -> None:
        """Update the averaged weights; the buffers are those of the model."""
        # A lower decay in the first steps removes the initial weights from the average.
        weight = 1 - min(self.config.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(ema.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, weight)
        for kept, current in zip(ema.buffers(), self.model.buffers(), strict=True):
            kept.copy_(current)

    def identity(self) -> str:
        """Return a hash of all that a saved state must agree with."""
        config = {k: v for k, v in asdict(self.config).items() if k != "checkpoint_minutes"}
        shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        text = json.dumps([config, self.seed, shapes, [phase.name for phase in self.phases]])
        return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _only_gradients_of(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    # Faster than the argument `inputs` of the backward pass, which saves activations for all.
    keep = {id(parameter) for parameter in parameters}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in keep]
    for parameter in others:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in others:
            parameter.requires_grad_(True)


def _fabric(device: str, precision: Any) -> Any:
    # Imported here, because the import takes seconds.
    from lightning_fabric import Fabric

    # Fabric would report the precision of every training.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    kind, _, index = device.partition(":")
    return Fabric(accelerator=kind, devices=[int(index)] if index else 1, precision=precision)
