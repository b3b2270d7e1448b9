"""Seconds of nine probe trainings, three tasks by three seeds, and what training them as one saves.

``python benchmarks/probes.py [--threads N] [--size PIXELS]``
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import pandas as pd

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductContext
from harmbench.protocol.probes.training import PRODUCTS

N, SITES, SEEDS = 420, 7, (0, 1, 2)


def noise_cohort(size: int, seed: int) -> Cohort:
    rng = np.random.default_rng(seed)
    images = rng.random((N, size, size), dtype=np.float32)
    table = pd.DataFrame(
        {
            "participant_id": [f"{seed}-{i:03d}" for i in range(N)],
            "session_id": "",
            "slice": 0,
            "site": [f"site{i % SITES}" for i in range(N)],
            "age": rng.uniform(18, 90, N),
            "sex": np.where(rng.random(N) < 0.5, "F", "M"),
        }
    )
    return Cohort(images, table, np.ones(images.shape, bool))


def seconds(inputs: MetricInputs, threads: int, groups: list[tuple[int, ...]]) -> float:
    start = time.perf_counter()
    for product in PRODUCTS:
        for seeds in groups:
            product.make(inputs, ProductContext(seeds=seeds, threads=threads))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    inputs = MetricInputs(
        {
            "harmonized.probe": noise_cohort(arguments.size, 0),
            "harmonized.test": noise_cohort(arguments.size, 1),
        },
        "site0",
    )
    warm = ProductContext(seeds=(0,), threads=arguments.threads, probe={"images": 64})
    PRODUCTS[0].make(inputs, warm)  # imports
    together = [seconds(inputs, arguments.threads, [SEEDS]) for _ in range(2)]
    print(f"nine trainings, seeds together: {' '.join(f'{s:.1f}' for s in together)} s", flush=True)
    apart = [seconds(inputs, arguments.threads, [(seed,) for seed in SEEDS]) for _ in range(2)]
    print(f"nine trainings, one at a time:  {' '.join(f'{s:.1f}' for s in apart)} s")
    print(f"ratio: {min(apart) / min(together):.2f}")


if __name__ == "__main__":
    main()
