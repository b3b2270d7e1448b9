"""Coverage of the intervals of small, cross-fitted studies, whose predictions are not independent.

``python benchmarks/coverage_pooled.py 200`` draws studies of three sites with known effects,
computes site, age and sex metrics with the linear probe as a run does, and counts how often the
interval holds the expectation of the estimate (the mean over all draws).
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductContext
from harmbench.data.splits import make_split
from harmbench.protocol.biology.age_and_sex import age_mae, age_skill_within, sex_bacc
from harmbench.protocol.probes.kinds import make_kind
from harmbench.protocol.site.accuracy import site_bacc

METRICS = {"site": [site_bacc], "age": [age_mae, age_skill_within], "sex": [sex_bacc]}
FEATURES, SITES = 12, 3


def study(n: int, seed: int) -> Cohort:
    """Return n people at three sites, with moderate effects of site, age and sex."""
    rng = np.random.default_rng(seed)
    site = rng.permutation(np.arange(n) % SITES)
    age, sex = rng.uniform(20, 80, n), rng.random(n) < 0.5
    fixed = np.random.default_rng(0).normal(size=(3, FEATURES))
    values = rng.normal(size=(n, FEATURES)) + 0.5 * (site - 1)[:, None] * fixed[0]
    values += 0.02 * (age - 50)[:, None] * fixed[1] + 0.4 * sex[:, None] * fixed[2]
    table = pd.DataFrame(
        {
            "participant_id": [f"{seed}-{i}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": np.array(["a", "b", "c"])[site],
            "age": age,
            "sex": np.where(sex, "M", "F"),
        }
    )
    return Cohort(values.astype(np.float32), table, np.ones(values.shape, bool), "table")


def estimates(n: int, seed: int) -> dict[str, tuple[float, float, float]]:
    """Return value and interval of each metric of one study."""
    cohort = study(n, seed)
    split = make_split(cohort, seed, least=n)
    rows = {name: np.flatnonzero(fold.probe) for name, fold in split.fits().items()}
    probe = cohort.subset(np.concatenate(list(rows.values())))
    labels = np.repeat(list(rows), [len(own) for own in rows.values()])
    images = {"raw.test": cohort, "harmonized.test": cohort}
    images |= {"raw.probe": probe, "harmonized.probe": probe}
    inputs = MetricInputs(images, "a", split.part, labels)
    found = {}
    for task, metrics in METRICS.items():
        best = make_kind("linear", task, inputs, ProductContext())  # type: ignore[arg-type]
        given = MetricInputs({**images, f"best.{task}": best}, "a", split.part, labels)
        for metric in metrics:
            one = metric(given, np.random.default_rng(seed)).overall
            assert one is not None
            found[metric.info.name] = (one.value, one.low, one.high)
    return found


def main(repeats: int) -> None:
    """Print the coverage in percent for three sizes."""
    for n in (40, 75, 150):
        drawn = pd.DataFrame([estimates(n, seed) for seed in range(repeats)])
        for name in drawn:
            value, low, high = np.array(drawn[name].tolist()).T
            truth = value.mean()
            inside = ((low <= truth) & (truth <= high)).mean()
            width = (high - low).mean() / (2 * 1.96 * value.std())
            said = f"mean {truth:.3f} coverage {100 * inside:.1f} width {width:.2f}"
            print(f"n={n:4d} {name:18s} {said}")
            sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
