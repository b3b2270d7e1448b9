"""From images to latents, to noise, and to images with other labels."""

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
Labels = dict[str, Tensor]
Latents = tuple[Tensor, Tensor | None]
BATCH = 32


@dataclass(frozen=True)
class Renderer:
    """Renders images with other labels than their own.

    Attributes
    ----------
    network : DDAENetwork
        A trained network.
    prediction, schedule
        Those of its training.
    sampler : {"ddim", "multistep"}
        See `ddae.diffusion.solve`.
    steps : int
        Number of network evaluations in each direction.
    depth : float
        Share of the diffusion process that is inverted, greater than 0 and at most 1.
    spacing : float
        See `ddae.diffusion.grid`.
    code : {"inverted", "random", "shared"}
        The noise from which images are rendered: from the inversion of the image with its own
        labels, random for each image, or the same for all images. The last two lose what is not in
        the latents.
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
        own: Labels,
        wanted: Labels,
        seeds: Sequence[int],
        progress: Progress,
        description: str,
    ) -> Tensor:
        """Return the images rendered with the labels `wanted`, shape (n, 1, height, width).

        Parameters
        ----------
        images : Tensor, shape (n, 1, height, width)
            Intensities from 0 to 1.
        own, wanted : dict of Tensor
            Labels, see `ddae.labels.LabelCoding.tensors`.
        seeds : sequence of int
            Seed of each image's noise, if it is random.
        progress, description : Progress, str
            Shows the progress, in images, under this name.
        """
        parts: list[Tensor] = []
        with progress.task(description, len(images)) as task:
            for x, (before, after) in self.batches(images, own, wanted):
                latents = self.network.encoder(x)
                if self.code == "inverted":
                    noise = self.invert(x, latents, before)
                else:
                    done = len(parts) * BATCH
                    noise = self._random(x, seeds[done : done + len(x)])
                rendered = self._solve(noise, self._times()[::-1], latents, after)
                parts.append(from_range(rendered).cpu())
                task.advance(len(x))
        return torch.cat(parts)

    def batches(self, images: Tensor, *labels: Labels) -> Iterator[tuple[Tensor, list[Labels]]]:
        """Yield images in the network's range and their labels, `BATCH` at a time."""
        device = next(self.network.parameters()).device
        for start in range(0, len(images), BATCH):
            at = slice(start, start + BATCH)
            yield (
                to_range(images[at].to(device)),
                [{name: v[at].to(device) for name, v in some.items()} for some in labels],
            )

    def invert(self, x: Tensor, latents: Latents, labels: Labels) -> Tensor:
        """Return the noise from which `x`, in the network's range, is rendered with the labels."""
        return self._solve(x, self._times(), latents, labels)

    def _times(self) -> list[int]:
        return grid(self.steps, self.depth, self.spacing)

    def _solve(self, x: Tensor, times: list[int], latents: Latents, labels: Labels) -> Tensor:
        phi = angles(self.schedule)

        def velocity(x: Tensor, time: int) -> Tensor:
            # The network was trained on times from 1.
            at = torch.full((len(x),), max(time, 1), device=x.device)
            predicted = self.network.predict(x, at, *latents, labels)
            if self.prediction == "velocity":
                return predicted
            return velocity_from_noise(x, predicted, phi[at.cpu()].to(x.device))

        return solve(velocity, x, times, phi, self.sampler)

    def _random(self, x: Tensor, seeds: Sequence[int]) -> Tensor:
        if self.code == "shared":
            seeds = [0] * len(x)
        shape = x.shape[1:]
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        phi = angles(self.schedule)[round(self.depth * STEPS)].to(x.device)
        # At less than full depth the noise is added to the image.
        return noised(x, torch.stack(noise).to(x.device), phi.repeat(len(x)))
