"""The network of the CNN probes and its training, on arrays; the networks of all seeds as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from harmbench.progress import Progress
from harmbench.seeding import seed_from
from harmbench.training.layers import GroupedConv, GroupedLinear, space_to_depth
from harmbench.training.loop import TrainConfig, rows_at, train
from harmbench.training.process_state import seeded

GRID = 16
CHUNK = 256
CHECKS = 20
"""How often in a training the validation subjects are looked at."""


class ProbeNet(nn.Module):
    """Several small CNNs of one shape, side by side.

    Pixels are folded to a grid of 16 by 16, convolved there and at 8 by 8, pooled to 4 by 4; the
    head sees that map, not its mean, because in aligned images it matters where something is.

    Parameters
    ----------
    groups : int
        Number of networks.
    block : int
        Side of the blocks of pixels, ``ceil(size / 16)``.
    outputs : int
        Numbers that each network returns.
    channels : tuple of int
        Of the first and of the later convolutions.
    """

    def __init__(self, groups: int, block: int, outputs: int, channels: tuple[int, int]) -> None:
        super().__init__()
        first, later = channels
        self.body = nn.Sequential(
            GroupedConv(groups, block * block, first),
            GroupedConv(groups, first, later, stride=2),
            GroupedConv(groups, later, later),
            nn.AvgPool2d(2),
        ).to(memory_format=torch.channels_last)
        self.head = GroupedLinear(groups, later * 16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (n, groups, height, width) to (n, groups, outputs)."""
        n, groups = x.shape[:2]
        return self.head(self.body(space_to_depth(x, GRID)).reshape(n, groups, -1))


@dataclass(frozen=True)
class ProbeConfig:
    """Budget and shape of the probes; the same for all methods of a run.

    Attributes
    ----------
    images : int
        Length of the training of one network, in images.
    batch_size : int
        Images in a batch.
    lr, weight_decay : float
        Of AdamW; the rate falls to zero along a cosine.
    channels : tuple of int
        Of the first and of the later convolutions.
    shift : int
        Largest random shift of a training image along each axis, in pixels.
    validation : float
        Share of the probe part's subjects that only choose the epoch.
    """

    images: int = 8_000
    batch_size: int = 32
    lr: float = 6e-3
    weight_decay: float = 2.0
    channels: tuple[int, int] = (16, 32)
    shift: int = 1
    validation: float = 0.15

    @property
    def budget(self) -> TrainConfig:
        """The training of all seeds' networks, which share its steps."""
        return TrainConfig(
            images=self.images,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            schedule="cosine",
            warmup=self.images // 10,
        )


@dataclass(frozen=True)
class ProbeData:
    """What the networks are trained on.

    Attributes
    ----------
    images : ndarray of float32, shape (n, height, width)
        Standardized.
    labels : ndarray of float32 or int64, shape (n,)
        Standardized numbers, or positions among the classes.
    n_classes : int
        0 for a regression.
    train, validation : sequence of ndarray of int
        Rows of each seed's network.
    """

    images: NDArray[np.float32]
    labels: NDArray
    n_classes: int
    train: Sequence[NDArray[np.intp]]
    validation: Sequence[NDArray[np.intp]]


@dataclass(frozen=True)
class TrainedProbe:
    """The networks as they were when their validation loss was least.

    Attributes
    ----------
    state : dict of str to Tensor
        Of a `ProbeNet`.
    validation_loss : ndarray, shape (seeds, checks)
        Squared error of the standardized number, or balanced cross-entropy.
    training_loss : ndarray, shape (seeds, points)
        Along the training.
    images : ndarray, shape (points,)
        Where the points of the training loss lie.
    """

    state: dict[str, Tensor]
    validation_loss: NDArray[np.float64]
    training_loss: NDArray[np.float64]
    images: NDArray[np.int64]


def train_probe(
    data: ProbeData,
    seeds: Sequence[int],
    config: ProbeConfig,
    device: str = "cpu",
    progress: Progress | None = None,
    description: str = "probe",
) -> TrainedProbe:
    """Train one network a seed, all at once; none depends on the others.

    Parameters
    ----------
    data : ProbeData
        Images and labels.
    seeds : sequence of int
        Of initial weights, order and shifts.
    config : ProbeConfig
        The budget.
    device, progress, description
        As of `harmbench.training.loop.train`.

    Returns
    -------
    TrainedProbe
    """
    fit = _ProbeFit(data, seeds, config, device)
    trained = train(
        fit.net,
        fit.loss,
        fit.batch,
        config.budget,
        seed=seed_from("probe", *seeds),
        device=device,
        progress=progress,
        description=description,
        observe=fit.observe,
        observe_every=max(1, config.images // CHECKS),
    )
    curves = np.stack([trained.curve[f"seed {seed}"] for seed in seeds])
    checks = np.stack(fit.checks, axis=1)
    return TrainedProbe(fit.best, checks, curves, trained.curve["images"])


def predict(
    state: Mapping[str, Tensor], images: NDArray[np.float32], n_seeds: int, device: str = "cpu"
) -> NDArray[np.float32]:
    """Return the networks' raw outputs for standardized images, shape (seeds, n, outputs)."""
    first, later = (state[f"body.{i}.norm.weight"].numel() // n_seeds for i in (0, 2))
    net = ProbeNet(n_seeds, _block(images), state["head.bias"].shape[1], (first, later))
    net.load_state_dict(dict(state))
    net.to(device).eval()
    out = []
    with torch.no_grad():
        for start in range(0, len(images), CHUNK):
            chunk = torch.from_numpy(images[start : start + CHUNK]).to(device)
            out.append(net(chunk.unsqueeze(1).expand(-1, n_seeds, -1, -1)).cpu())
    return torch.cat(out).transpose(0, 1).contiguous().numpy()


class _ProbeFit:
    """Batches, loss and validation of the networks under training."""

    def __init__(
        self, data: ProbeData, seeds: Sequence[int], config: ProbeConfig, device: str
    ) -> None:
        self.data, self.seeds, self.config = data, seeds, config
        self.images = torch.from_numpy(np.ascontiguousarray(data.images)).to(device)
        self.labels = torch.from_numpy(data.labels).to(device)
        self.net = self._initial_net().to(device)
        self.best: dict[str, Tensor] = {}
        self.checks: list[NDArray[np.float64]] = []

    def _initial_net(self) -> ProbeNet:
        """Return the network in which each seed's part has the weights it would have alone."""
        block, outputs = _block(self.data.images), max(1, self.data.n_classes)
        states = []
        for seed in self.seeds:
            with seeded(seed_from("probe weights", seed)):
                states.append(ProbeNet(1, block, outputs, self.config.channels).state_dict())
        net = ProbeNet(len(self.seeds), block, outputs, self.config.channels)
        net.load_state_dict(
            {k: torch.cat([s[k] for s in states]) if v.dim() else v for k, v in states[0].items()}
        )
        return net

    @cached_property
    def _class_weights(self) -> Tensor:
        """Weight of each class in each seed's training, shape (seeds, classes)."""
        k = self.data.n_classes
        counts = np.stack([np.bincount(self.data.labels[r], minlength=k) for r in self.data.train])
        weights = counts.sum(1, keepdims=True) / (k * np.maximum(counts, 1))
        return torch.from_numpy(weights).float().to(self.images.device)

    @cached_property
    def _windows(self) -> Tensor:
        """View of all shifted images, shape (n, shifts, shifts, height, width)."""
        height, width = self.images.shape[-2:]
        padded = F.pad(self.images, (self.config.shift,) * 4)
        return padded.unfold(1, height, 1).unfold(2, width, 1)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return rows (batch, seeds) and shifts (2, batch, seeds) of a step."""
        size, span = self.config.batch_size, 2 * self.config.shift + 1
        rows, shifts = [], []
        for seed, own in zip(self.seeds, self.data.train, strict=True):
            order = rows_at(step, len(own), size, seed_from("probe order", seed))
            generator = torch.Generator().manual_seed(seed_from("probe shifts", seed, step))
            rows.append(torch.from_numpy(own)[order])
            shifts.append(torch.randint(0, span, (2, size), generator=generator))
        return torch.stack(rows, dim=1), torch.stack(shifts, dim=2)

    def loss(
        self, net: nn.Module, batch: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the networks' losses, and each of them."""
        rows, shifts = batch
        losses = self._losses(net(self._windows[rows, shifts[0], shifts[1]]), rows)
        return losses.sum(), {f"seed {seed}": losses[i] for i, seed in enumerate(self.seeds)}

    def _losses(self, output: Tensor, rows: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return each network's mean loss over its rows; `counted` masks padding; (seeds,)."""
        labels = self.labels[rows]
        if self.data.n_classes:
            each = F.cross_entropy(output.movedim(2, 1), labels, reduction="none")
            weights = self._class_weights.expand(len(rows), -1, -1)
            weights = weights.gather(2, labels.unsqueeze(2)).squeeze(2)
        else:
            each = (output[..., 0] - labels) ** 2
            weights = torch.ones_like(each)
        if counted is not None:
            weights = weights * counted
        return (each * weights).sum(0) / weights.sum(0)

    @cached_property
    def _validation(self) -> tuple[Tensor, Tensor]:
        """Rows (m, seeds), padded to the longest, and which of them count."""
        longest = max(map(len, self.data.validation))
        rows = np.zeros((longest, len(self.seeds)), dtype=np.int64)
        counted = np.zeros((longest, len(self.seeds)), dtype=np.float32)
        for i, own in enumerate(self.data.validation):
            rows[: len(own), i], counted[: len(own), i] = own, 1
        device = self.images.device
        return torch.from_numpy(rows).to(device), torch.from_numpy(counted).to(device)

    @torch.no_grad()
    def observe(self, net: nn.Module, images: int) -> None:
        """Keep the weights of the networks that have never been better on their validation rows."""
        rows, counted = self._validation
        losses = self._losses(net(self.images[rows]), rows, counted).cpu().double().numpy()
        before = np.min(self.checks, axis=0) if self.checks else np.full(len(losses), np.inf)
        state = {name: value.detach().cpu() for name, value in net.state_dict().items()}
        if not self.checks:
            self.best = {name: value.clone() for name, value in state.items()}
        for i in np.flatnonzero(losses < before):
            for name, value in state.items():
                if value.dim():
                    groups = (len(self.seeds), -1)
                    self.best[name].unflatten(0, groups)[i] = value.unflatten(0, groups)[i]
        self.checks.append(losses)


def _block(images: NDArray) -> int:
    return -(-max(images.shape[-2:]) // GRID)
