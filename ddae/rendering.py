"""From images to latents, to noise, and back to images under other labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddae.diffusion import (
    STEPS,
    Sampler,
    Schedule,
    angles,
    grid,
    noised,
    solve,
    velocity_from_noise,
)
from ddae.networks import DDAENetwork
from ddae.objective import Prediction, from_range, to_range
from harmbench.progress import Progress

Code = Literal["inverted", "random", "shared"]
BATCH = 32


@dataclass(frozen=True)
class Renderer:
    """Renders images under other labels than their own.

    Attributes
    ----------
    network : DDAENetwork
        Trained.
    prediction, schedule
        Those of its training.
    sampler : {"ddim", "multistep"}
        See `ddae.diffusion.solve`.
    steps : int
        Network evaluations each way.
    depth : float
        Share of the diffusion to invert through, over 0 to 1.
    spacing : float
        See `ddae.diffusion.grid`.
    code : {"inverted", "random", "shared"}
        The noise to render from: inverted from the image under its own labels, drawn for each
        image, or one for all. The last two ignore what the latents do not hold.
    """

    network: DDAENetwork
    prediction: Prediction
    schedule: Schedule
    sampler: Sampler
    steps: int
    depth: float
    spacing: float
    code: Code

    @torch.inference_mode()
    def run(
        self,
        images: Tensor,
        own: dict[str, Tensor],
        wanted: dict[str, Tensor],
        seeds: Sequence[int],
        progress: Progress,
        description: str,
    ) -> Tensor:
        """Return the images rendered under the labels `wanted`, shape (n, 1, height, width).

        Parameters
        ----------
        images : Tensor, shape (n, 1, height, width)
            0 to 1.
        own, wanted : dict of Tensor
            Labels, see `ddae.labels.LabelCoding.tensors`.
        seeds : sequence of int
            Of every image's noise, where it is drawn.
        progress, description
            Where and under which name progress is shown.
        """
        parts: list[Tensor] = []
        with progress.task(description, len(images)) as task:
            pairs = zip(self.batches(images, own), self.batches(images, wanted), strict=True)
            for (x, before), (_, after) in pairs:
                latents = self.network.encoder(x)
                if self.code == "inverted":
                    noise = self.invert(x, latents, before)
                else:
                    done = len(parts) * BATCH
                    noise = self._drawn(x, seeds[done : done + len(x)])
                parts.append(from_range(self.render(noise, latents, after)).cpu())
                task.advance(len(x))
        return torch.cat(parts)

    def batches(
        self, images: Tensor, labels: dict[str, Tensor]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield images, in the network's range, and their labels, `BATCH` at a time."""
        device = next(self.network.parameters()).device
        for start in range(0, len(images), BATCH):
            at = slice(start, start + BATCH)
            yield (
                to_range(images[at].to(device)),
                {name: values[at].to(device) for name, values in labels.items()},
            )

    def invert(
        self, x: Tensor, latents: tuple[Tensor, Tensor | None], labels: dict[str, Tensor]
    ) -> Tensor:
        """Return the noise that `x`, in the network's range, comes from under the labels."""
        return self._solve(x, grid(self.steps, self.depth, self.spacing), latents, labels)

    def render(
        self, noise: Tensor, latents: tuple[Tensor, Tensor | None], labels: dict[str, Tensor]
    ) -> Tensor:
        """Return the image, in the network's range, that the noise becomes under the labels."""
        return self._solve(noise, grid(self.steps, self.depth, self.spacing)[::-1], latents, labels)

    def _solve(
        self,
        x: Tensor,
        times: list[int],
        latents: tuple[Tensor, Tensor | None],
        labels: dict[str, Tensor],
    ) -> Tensor:
        phi = angles(self.schedule)
        z, extra = latents

        def velocity(x: Tensor, time: int) -> Tensor:
            # The network was trained on times from 1 on.
            at = torch.full((len(x),), max(time, 1), device=x.device)
            predicted = self.network.predict(x, at, z, extra, labels)
            if self.prediction == "velocity":
                return predicted
            return velocity_from_noise(x, predicted, phi[at.cpu()].to(x.device))

        return solve(velocity, x, times, phi, self.sampler)

    def _drawn(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.code == "shared":
            seeds = [0] * len(x)
        shape = x.shape[1:]
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        phi = angles(self.schedule)[round(self.depth * STEPS)].to(x.device)
        # From less than full depth, the noise lies on the image itself.
        return noised(x, torch.stack(drawn).to(x.device), phi.repeat(len(x)))
