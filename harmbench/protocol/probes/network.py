"""The network of the CNN probes and its training on arrays; all seeds are trained together."""

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
from harmbench.training.loop import rows_at, train
from harmbench.training.process_state import seeded
from harmbench.training.settings import TrainConfig

GRID = 16
CHUNK = 256
CHECKS = 20
"""Number of times that the validation loss is computed in a training."""


class ProbeNet(nn.Module):
    """Several independent small CNNs of the same shape.

    Pixels are folded to a grid of 16 by 16 blocks, convolved there and at 8 by 8, and pooled to
    4 by 4. The head sees this map, not its mean, because in aligned images the position matters.

    Parameters
    ----------
    groups, block, outputs : int
        Number of networks, side of the blocks of pixels, and number of outputs of each network.
    channels : tuple of int
        Number of channels of the first and of the later convolutions.
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
    """Budget and shape of the probes, the same for all methods of a run.

    Attributes
    ----------
    images : int
        Length of the training of one network, in images.
    batch_size : int
        Images in a batch.
    lr, weight_decay : float
        Of AdamW; the learning rate falls to zero along a cosine.
    channels : tuple of int
        Number of channels of the first and of the later convolutions.
    shift : int
        Largest random shift of a training image along each axis, in pixels.
    validation : float
        Share of the probe part's subjects that are only used to choose the epoch.
    """

    images: int = 8_000
    batch_size: int = 32
    lr: float = 6e-3
    weight_decay: float = 2.0
    channels: tuple[int, int] = (16, 32)
    shift: int = 1
    validation: float = 0.15


@dataclass(frozen=True)
class ProbeData:
    """Training data of the networks.

    The images (n, height, width) and the numbers of a regression (n,), with `n_classes` 0, are
    standardized; other labels are indices of classes. Each seed has its own rows for training and
    validation.
    """

    images: NDArray[np.float32]
    labels: NDArray
    n_classes: int
    train: Sequence[NDArray[np.intp]]
    validation: Sequence[NDArray[np.intp]]


def train_probe(
    data: ProbeData,
    seeds: Sequence[int],
    config: ProbeConfig,
    device: str = "cpu",
    progress: Progress | None = None,
    description: str = "probe",
) -> dict[str, NDArray]:
    """Train one network per seed, all at once; they do not depend on each other.

    Parameters
    ----------
    data : ProbeData
    seeds : sequence of int
        Seeds of initial weights, order and shifts.
    config : ProbeConfig
    device, progress, description
        As in `harmbench.training.loop.train`.

    Returns
    -------
    dict of str to ndarray
        ``"validation_loss"``, shape (seeds, checks): squared error of the standardized number, or
        balanced cross-entropy. ``"training_loss"``, shape (seeds, points), and its ``"images"``,
        shape (points,). ``"net.<name>"``: the weights with the lowest validation loss.
    """
    fit = _ProbeFit(data, seeds, config, device)
    budget = TrainConfig(
        images=config.images,
        batch_size=config.batch_size,
        lr=config.lr,
        weight_decay=config.weight_decay,
        schedule="cosine",
        warmup=config.images // 10,
    )
    curve = train(
        fit.net,
        fit.loss,
        fit.batch,
        budget,
        seed=seed_from("probe", *seeds),
        device=device,
        progress=progress,
        description=description,
        observe=fit.observe,
        observe_every=max(1, config.images // CHECKS),
    ).curve
    return {
        "validation_loss": np.stack(fit.checks, axis=1),
        "training_loss": np.stack([curve[f"seed {seed}"] for seed in seeds]),
        "images": curve["images"],
        **{f"net.{name}": value.numpy() for name, value in fit.best.items()},
    }


def predict(
    arrays: Mapping[str, NDArray], images: NDArray[np.float32], device: str = "cpu"
) -> NDArray[np.float32]:
    """Return the outputs of the networks of `train_probe` for standardized images.

    Returns
    -------
    ndarray of float32, shape (seeds, n, outputs)
    """
    state = {
        name.removeprefix("net."): torch.from_numpy(np.array(value))
        for name, value in arrays.items()
        if name.startswith("net.")
    }
    n_seeds = len(arrays["validation_loss"])
    first, later = (state[f"body.{i}.norm.weight"].numel() // n_seeds for i in (0, 2))
    net = ProbeNet(n_seeds, _block(images), state["head.bias"].shape[1], (first, later))
    net.load_state_dict(state)
    net.to(device).eval()
    out = []
    with torch.no_grad():
        for start in range(0, len(images), CHUNK):
            chunk = torch.from_numpy(images[start : start + CHUNK]).to(device)
            out.append(net(chunk.unsqueeze(1).expand(-1, n_seeds, -1, -1)).cpu())
    return torch.cat(out).transpose(0, 1).contiguous().numpy()


class _ProbeFit:
    """Batches, loss and validation of the networks in a training."""

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
        """Return the networks; the weights of one depend on its seed only."""
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
        """Return the sum of the networks' losses, and each loss."""
        rows, shifts = batch
        losses = self._losses(net(self._windows[rows, shifts[0], shifts[1]]), rows)
        return losses.sum(), {f"seed {seed}": losses[i] for i, seed in enumerate(self.seeds)}

    def _losses(self, output: Tensor, rows: Tensor, counted: Tensor | None = None) -> Tensor:
        """Return each network's mean loss over its rows, (seeds,); `counted` masks padding."""
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
        """Keep the weights of each network with the lowest validation loss so far."""
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
