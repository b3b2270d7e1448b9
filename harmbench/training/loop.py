"""The one training loop: Lightning Fabric, progress in images, averaged weights, exact resume.

Everything random in step k is seeded by the run's seed and k, and the batch of step k is a pure
function of k. So the state of a run is its tensors and one number, and a run that was interrupted
ends with the same bits as one that was not.

In several processes (`harmbench.training.group`) each takes its share of every batch, and
gradients and the parts of the loss are averaged over them. So a loss that is a mean over the
images of a batch means the same there; what couples them (pairs, strata, statistics of the batch)
does so in a share.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harmbench.errors import HarmbenchError
from harmbench.progress import Progress, Task
from harmbench.seeding import seed_from
from harmbench.training.checkpoint import Checkpoint, Curve, below, under
from harmbench.training.group import Group
from harmbench.training.precision import Precision, resolve_precision
from harmbench.training.process_state import interrupts, seeded

Loss = Callable[[nn.Module, Any, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
"""``loss(model, batch, generator)`` returns the number to minimize and its named parts."""

Batches = Callable[[int], Any]
"""``batches(step)`` returns the batch of that step: a pure function of the step."""

Observe = Callable[[nn.Module, int], None]
"""``observe(model, images)`` looks at the model, in evaluation mode, and must not change it."""


class Diverged(HarmbenchError):
    """The loss is no longer a finite number."""


@dataclass(frozen=True)
class TrainConfig:
    """The budget and the optimizer of one training.

    Attributes
    ----------
    images : int
        Length of the training, in images; rounded up to whole batches.
    batch_size : int
        Images in a batch.
    lr, weight_decay, betas : float, float, (float, float)
        Of AdamW; a phase's parameter groups may override them.
    schedule : {"constant", "cosine", "linear"}
        How the learning rate falls, to zero at the end.
    warmup : int
        Images over which the learning rate rises from zero.
    ema : float
        Decay, per step, of the averaged weights (shorter in the first steps); 0 for none.
    clip : float
        Largest norm of a phase's gradient; 0 for no limit.
    precision : str
        Of Fabric, such as ``"32-true"`` or ``"bf16-mixed"``; ``"auto"`` as of
        `harmbench.training.precision`.
    checkpoint_minutes : float
        Time between two saved states.
    """

    images: int
    batch_size: int
    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup: int = 0
    ema: float = 0.0
    clip: float = 0.0
    precision: Precision = "32-true"
    checkpoint_minutes: float = 5.0

    @property
    def steps(self) -> int:
        """Number of batches."""
        return math.ceil(self.images / self.batch_size)

    def rate(self, step: int) -> float:
        """Return the factor on the learning rate in `step`."""
        done = step / self.steps
        fall = {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done}
        return min(1.0, (step + 1) * self.batch_size / max(self.warmup, 1)) * fall[self.schedule]


@dataclass(frozen=True)
class Phase:
    """One loss and the parameters that it moves; a training has one, an adversarial one two.

    Attributes
    ----------
    loss : callable
        See `Loss`.
    parameters : sequence of dict or None
        Parameter groups as `torch.optim` takes them; None for all of the model's. Gradients reach
        no other parameter.
    name : str
        Prefix of its parts in the loss curve, ``""`` where there is one phase.
    """

    loss: Loss
    parameters: Sequence[dict[str, Any]] | None = None
    name: str = ""


@dataclass(frozen=True)
class Trained:
    """What a training leaves besides the model, which it changes in place.

    Attributes
    ----------
    curve : mapping of str to ndarray
        ``"images"`` and, under each part's name, its mean since the point before.
    ema : Module or None
        A copy of the model with averaged weights, where they were asked for.
    """

    curve: Mapping[str, NDArray]
    ema: nn.Module | None


def rows_at(step: int, n: int, batch_size: int, seed: int) -> Tensor:
    """Return which of `n` rows are in the batch of `step`: every row once in each pass.

    Returns
    -------
    Tensor of int64, shape (batch_size,)
        A batch may end one pass and begin the next.
    """
    images = torch.arange(step * batch_size, (step + 1) * batch_size)
    rows = torch.empty_like(images)
    for epoch in (images // n).unique().tolist():
        generator = torch.Generator().manual_seed(seed_from("order", seed, epoch))
        here = images // n == epoch
        rows[here] = torch.randperm(n, generator=generator)[images[here] % n]
    return rows


def train(
    model: nn.Module,
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
) -> Trained:
    """Train a model, or go on where an interrupted training stopped.

    Parameters
    ----------
    model : Module
        Changed in place; initial weights are the caller's (see `seeded`).
    phases : callable or sequence of Phase
        What to minimize; phases take turns on every batch.
    batches : callable
        ``batches(step)``: tensors anywhere inside it are moved to the device. In several processes
        a batch whose tensors are not all of shape (n, ...) needs a method ``only(rows: slice)``.
    config : TrainConfig
        Budget and optimizer.
    seed : int
        Of everything random in the loss and the layers; torch's ambient state is left as it was.
        Each of several processes draws numbers of its own.
    device : str
        Such as ``"cpu"`` or ``"cuda:1"``.
    progress, description
        Where and under which name progress is shown, in images.
    checkpoints : Path or None
        Folder of the saved state: every `TrainConfig.checkpoint_minutes`, on Ctrl-C, at the end.
        Several processes must all see it; the first one writes.
    observe, observe_every : callable, int
        Called after at least every `observe_every` images and at the end; the averaged model is
        given where there is one. Its own memory is not part of the saved state. Of several
        processes the first one calls it.

    Returns
    -------
    Trained

    Raises
    ------
    Diverged
        Where the loss is not finite.
    HarmbenchError
        Where the folder holds the state of a different training, or the batch size is no multiple
        of the number of processes.
    KeyboardInterrupt
        After the state is saved.
    """
    if callable(phases):
        phases = [Phase(phases)]
    run = _Run(model, phases, config, seed, device)
    saved = (
        Checkpoint(checkpoints, run.identity, config.checkpoint_minutes) if checkpoints else None
    )
    if saved:
        run.restore(*saved.load())
    run.join()
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
                observe(run.averaged.eval(), images)
            stop = run.group.any(interrupted.is_set())
            if saved and run.group.first and (saved.due() or last or stop):
                saved.save(*run.state())
            if stop:
                raise KeyboardInterrupt
        if run.group.any(interrupted.is_set()):  # while the last state was being saved
            raise KeyboardInterrupt
    return Trained(run.curve.arrays(config.batch_size), run.averaged if run.ema else None)


class _Run:
    """The state of a training: model, optimizers, averages, curve and the number of steps done."""

    def __init__(
        self,
        model: nn.Module,
        phases: Sequence[Phase],
        config: TrainConfig,
        seed: int,
        device: str,
    ) -> None:
        # In this memory format a CPU convolves fastest; all maps follow the weights.
        self.model = model.to(memory_format=torch.channels_last)
        precision = resolve_precision(config.precision, device)
        self.phases, self.config, self.seed = phases, replace(config, precision=precision), seed
        self.group = Group.here()
        self.group.require_shares(config.batch_size)
        self.fabric = _fabric(device, precision)
        self.optimizers = [self._optimizer(phase) for phase in phases]
        self.wrapped, *self.steppers = self.fabric.setup(model, *self.optimizers)
        self.ema = _Average(model, config.ema) if config.ema else None
        self.curve = Curve(config.steps)
        self.step = 0

    @property
    def averaged(self) -> nn.Module:
        """The averaged model, or the model itself."""
        return self.ema.module if self.ema else self.model

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

    def join(self) -> None:
        """Begin at one point with the other processes."""
        self.group.require_same(
            self.step,
            "the processes of this training found different saved states; --out must be a folder "
            "that all of them see",
        )
        self.group.copy(self.model.state_dict().values())
        if self.ema:
            self.group.copy(self.ema.module.state_dict().values())

    def advance(self, batch: Any, task: Task) -> None:
        """Take one step in every phase."""
        step_seed = seed_from("step", self.seed, self.step, *self.group.stream)
        generator = torch.Generator(self.fabric.device).manual_seed(step_seed)
        batch = self.fabric.to_device(self.group.share(batch))
        self.model.train()
        parts: dict[str, Tensor] = {}
        with seeded(step_seed, self.fabric.device):
            for phase, optimizer in zip(self.phases, self.steppers, strict=True):
                parts |= self._descend(phase, optimizer, batch, generator)
        self.group.copy(self.model.buffers())
        if self.ema:
            self.ema.update(self.model, self.step)
        self.step += 1
        if self.curve.add(self.step, parts) and not self.curve.finite():
            raise self._diverged()
        task.advance(self.config.batch_size, self.curve.note)

    def _descend(
        self, phase: Phase, optimizer: Any, batch: Any, generator: torch.Generator
    ) -> dict[str, Tensor]:
        moved = [p for group in optimizer.param_groups for p in group["params"]]
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.config.rate(self.step)
        with _only_gradients_of(self.model, moved):
            with self.fabric.autocast():
                loss, parts = phase.loss(self.wrapped, batch, generator)
            self.fabric.backward(loss)
        parts = self.group.averaged(moved, {"loss": loss, **parts})
        if self.config.clip:
            # What is not finite is found in the curve, whose error says what to do.
            norm = self.fabric.clip_gradients(
                self.wrapped, optimizer, max_norm=self.config.clip, error_if_nonfinite=False
            )
            parts = {**parts, "gradient": norm}
        optimizer.step()
        optimizer.zero_grad()
        prefix = f"{phase.name}." if phase.name else ""
        return {f"{prefix}{name}": value.detach() for name, value in parts.items()}

    def _diverged(self) -> Diverged:
        return Diverged(
            f"the training loss is not a finite number after {self.step} steps; "
            f"lower the learning rate ({self.config.lr:g}) or set a gradient clip"
        )

    @property
    def identity(self) -> str:
        """Name of this training: a state is taken up only by the same one."""
        config = {k: v for k, v in asdict(self.config).items() if k != "checkpoint_minutes"}
        shapes = {name: list(value.shape) for name, value in self.model.state_dict().items()}
        text = json.dumps([config, self.seed, shapes, [phase.name for phase in self.phases]])
        return hashlib.sha256(text.encode()).hexdigest()

    def state(self) -> tuple[int, dict[str, Tensor]]:
        """Return the step and all tensors that the next step depends on."""
        tensors = under("model", self.model.state_dict()) | under("curve", self.curve.state())
        if self.ema:
            tensors |= under("ema", self.ema.module.state_dict())
        for i, optimizer in enumerate(self.optimizers):
            for parameter, values in optimizer.state_dict()["state"].items():
                tensors |= under(f"optimizer.{i}.{parameter}", values)
        return self.step, tensors

    def restore(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned; nothing at step 0."""
        if step == 0:
            return
        self.step = step
        self.model.load_state_dict(below("model", tensors))
        self.curve.restore(below("curve", tensors))
        if self.ema:
            self.ema.module.load_state_dict(below("ema", tensors))
        for i, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in below(f"optimizer.{i}", tensors).items():
                parameter, _, key = name.partition(".")
                state.setdefault(int(parameter), {})[key] = value
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": state, "param_groups": groups})


class _Average:
    """An exponential moving average of a model's weights; its buffers are the model's own."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        # In the first steps the average must not be the initial weights.
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        for mean, value in zip(self.module.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, weight)
        for kept, current in zip(self.module.buffers(), model.buffers(), strict=True):
            kept.copy_(current)


def _fabric(device: str, precision: Any) -> Any:
    # Imported here because it costs seconds that reading a table should not.
    from lightning_fabric import Fabric

    # It prints the precision for every training, even where silence was asked for.
    logging.getLogger("lightning_fabric.utilities.rank_zero").setLevel(logging.WARNING)
    kind, _, index = device.partition(":")
    return Fabric(accelerator=kind, devices=[int(index)] if index else 1, precision=precision)


@contextmanager
def _only_gradients_of(model: nn.Module, moved: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach the parameters `moved` and no others of the model."""
    keep = {id(parameter) for parameter in moved}
    frozen = [p for p in model.parameters() if p.requires_grad and id(p) not in keep]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
