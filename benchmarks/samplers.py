"""What a step of the DDAE's samplers buys: error of reconstruction and error to the truth.

``python benchmarks/samplers.py WEIGHTS [--scans N] [--out FIGURE.png]`` with a folder that
``harmbench train --methods ddae`` wrote for the default phantom; scans are of its probe part. Ends
with how many images a second go through one evaluation of the network, here and by the plain U-Net.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch

from ddae.method import DDAE
from harmbench.contracts.cohort import Cohort
from harmbench.contracts.method import ApplyContext
from harmbench.data.phantom import Phantom
from harmbench.data.splits import make_split
from harmbench.protocol.truth.errors import masked_mae

STEPS = (5, 10, 20, 40)
CHOICES = (("ddim", 1.0), ("ddim", 1.5), ("multistep", 1.0), ("multistep", 1.5))


def scans(n: int) -> tuple[Cohort, np.ndarray]:
    """Probe scans of other sites than the reference, and their rescans there."""
    phantom = Phantom()
    cohort = phantom.load()
    (fold,) = make_split(cohort, 0).folds()
    other = fold.probe & (cohort.column("site") != phantom.reference_site)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(other))[:n]
    chosen = cohort.subset(np.sort(rows))
    return chosen, np.asarray(phantom.truth(phantom.reference_site, chosen.keys))


def errors(method: DDAE, cohort: Cohort, truth: np.ndarray) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    context = ApplyContext(threads=torch.get_num_threads())
    for sampler, spacing in CHOICES:
        for steps in STEPS:
            method.sampler, method.spacing, method.steps = sampler, spacing, steps
            for what, target, wanted in (
                ("to the scan itself, rendered to its own site", "own", cohort.images),
                ("to the truth at the reference site", None, truth),
            ):
                images = method.harmonize(cohort, target, context=context)
                error = masked_mae(images, wanted, cohort.mask).mean()
                name = f"{sampler}, spacing {spacing:g}"
                rows.append({"sampler": name, "steps": steps, "error": what, "value": error})
                print(f"{name:24s} {steps:3d} steps each way  {what:46s} {error:.4f}", flush=True)
    return rows


def speed(method: DDAE, seconds: float = 5.0) -> float:
    """Images a second through one evaluation of the network."""
    network = method.network
    with torch.inference_mode():
        x = torch.zeros(32, 1, *method.size)
        labels = {"age": torch.zeros(32), "sex": torch.zeros(32).long()}
        labels["site"] = torch.zeros(32).long()
        latents = network.encoder(x)
        start, done = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            network.predict(x, torch.full((32,), 500), *latents, labels)
            done += 32
    return done / (time.perf_counter() - start)


def draw(table: pd.DataFrame, out: Path) -> None:
    grid = sns.relplot(
        table, x="steps", y="value", hue="sampler", style="sampler", col="error", kind="line",
        markers=True, palette="colorblind", height=3.4, aspect=1.2, facet_kws={"sharey": False},
    )  # fmt: skip
    grid.set(xscale="log", yscale="log")
    grid.set_axis_labels("network evaluations each way", "mean absolute error in the mask")
    grid.set_titles("{col_name}")
    for axis in grid.axes.flat:
        axis.minorticks_off()
        axis.set_xticks(STEPS, [str(steps) for steps in STEPS])
        low, high = axis.get_ylim()
        ticks = [t for t in (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.06) if low < t < high]
        axis.set_yticks(ticks, [f"{t:g}" for t in ticks])
    grid.savefig(out, dpi=150)
    plt.close(grid.figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--scans", type=int, default=48)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    method = DDAE.load(arguments.weights)
    table = pd.DataFrame(errors(method, *scans(arguments.scans)))
    plain = DDAE(**{**method.params(), "patch": 1, "attention": 16})
    plain.size, plain.labels = method.size, method.labels
    plain.network = plain._network().eval()
    ours, theirs = speed(method), speed(plain)
    print(f"images/s through one evaluation: {ours:.0f}; plain U-Net {theirs:.0f}", end="")
    print(f"; ratio {ours / theirs:.1f}")
    if arguments.out:
        draw(table, arguments.out)


if __name__ == "__main__":
    main()
