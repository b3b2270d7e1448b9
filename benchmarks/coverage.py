"""Coverage of the 95 % intervals, by simulation: python benchmarks/coverage.py [REPEATS].

Each case draws many test sets of a world whose true value is known (or found from a very large
one), and counts how often the interval holds it. The intervals come from the same replicates. The
table stands in docs/statistics.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import astuple
from statistics import NormalDist

import numpy as np

from harmbench import stats
from harmbench.protocol.features.sets import FeatureSet
from harmbench.protocol.quality.frechet import _frechet

B = 400
PHI = NormalDist()
# n, m, d, shift, decay of the features' scales
FRECHET = [
    (100, 100, 512, 0, 0.97),
    (300, 60, 512, 0.5, 0.97),
    (200, 150, 20, 0.5, 0.97),
    (120, 120, 64, 0.3, 0.95),
    (100, 50, 64, 0, 0.9),
    (60, 60, 16, 1.0, 0.9),
    (80, 60, 24, 0.8, 0.9),
]
# n, m, d, shift, heavy tails
KERNEL = [
    (100, 60, 32, 0, False),
    (100, 60, 32, 0.2, False),
    (300, 60, 512, 0, False),
    (40, 30, 8, 0.5, False),
    (50, 25, 12, 0.4, False),
    (35, 35, 5, 0.25, True),
    (80, 40, 24, 0.3, True),
]


def bca(value, replicates, jackknife):
    """BCa interval (Efron 1987) from replicates and leave-one-subject-out values."""
    share = np.clip(np.mean(replicates < value) + np.mean(replicates == value) / 2, 1e-3, 0.999)
    z0 = PHI.inv_cdf(float(share))
    lean = jackknife.mean() - jackknife
    a = (lean**3).sum() / (6 * max((lean**2).sum(), 1e-30) ** 1.5)
    levels = []
    for z in (PHI.inv_cdf(0.025), PHI.inv_cdf(0.975)):
        levels.append(PHI.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))
    return np.quantile(replicates, levels)


def leave_one_out(subjects):
    return (np.unique(subjects)[:, None] != subjects).astype(float)


def intervals(value, replicates, jackknife, df):
    low, high = stats.percentile_interval(replicates)
    return {
        "expanded": stats.percentile_interval(replicates, df=df),
        "percentile": (low, high),
        "basic": (2 * value - high, 2 * value - low),
        "BCa": bca(value, replicates, jackknife),
        "normal": stats.normal_interval(value, replicates.std(ddof=1)),
    }


def lognormal_case(rng, n=30, spread=0.8):
    """Mean over errors more skewed than any of the suite's."""
    x = rng.lognormal(0, spread, n)
    return np.arange(n), None, lambda w: stats.weighted_mean(x, w), np.exp(spread**2 / 2)


def mean_case(rng, n=30, rows=3):
    """Mean over skewed errors; subjects with 1 to `rows` rows."""
    subjects = np.repeat(np.arange(n), rng.integers(1, rows + 1, n))
    own = rng.gamma(2.0, 1.0, n)[subjects]
    x = own + rng.normal(size=len(subjects))

    def statistic(w):
        return stats.weighted_mean(x, w)

    return subjects, None, statistic, 2.0


def within_case(rng, n=80, groups=4, r=0.6):
    """Within-site correlation of age and its prediction."""
    g = np.arange(n) % groups
    x = rng.normal(size=n)
    y = r * x + np.sqrt(1 - r * r) * rng.normal(size=n)

    def statistic(w):
        return stats.weighted_correlation(x + 5 * g, y + 5 * g, w, g)

    return np.arange(n), g, statistic, r


def auc_case(rng, n=80, shift=1.0):
    """AUC of a score."""
    truth = np.arange(n) % 2 == 0
    score = rng.normal(size=n) + shift * truth

    def statistic(w):
        return stats.weighted_auc(truth, score, w)

    return np.arange(n), truth, statistic, PHI.cdf(shift / np.sqrt(2))


def bacc_case(rng, per_site=20, sites=4, seed_sd=0.3, seeds=3):
    """Balanced accuracy with probe seeds of differing skill, two of three kinds of noise shared."""
    site = np.repeat(np.arange(sites), per_site)
    n = len(site)
    ease = rng.normal(size=n)  # a subject is easy or hard for all seeds

    def right(count):
        skill = 0.5 + seed_sd * rng.normal(size=(count, 1))
        return skill + ease + rng.normal(size=(count, n)) > 0

    predicted = np.where(right(seeds), site, (site + 1) % sites)
    draws = np.random.default_rng(0)

    def statistic(w):
        per_seed = stats.weighted_balanced_accuracy(site, predicted, w)
        noise = stats.seed_weights(seeds, len(w), draws)
        # Replicates also resample the seeds; the point value and the jackknife do not.
        even = np.full_like(noise, 1 / seeds)
        return stats.over_seeds(per_seed, noise if len(w) == B else even)

    return np.arange(n), site, statistic, PHI.cdf(0.5 / np.sqrt(2 + seed_sd**2))


def pair_case(rng, n=40, d=8, noise=0.5):
    """Correlation of pairwise distances before and after."""

    def world(size):
        x = rng.normal(size=(size, d)) * np.linspace(2, 0.5, d)
        y = x + noise * rng.normal(size=(size, d))
        return (np.linalg.norm(a[:, None] - a, axis=2) for a in (x, y))

    if pair_case.truth is None:
        x, y = world(1500)
        pair_case.truth = stats.weighted_pair_correlation(x, y, np.ones((1, 1500)))[0]
    x, y = world(n)

    def statistic(w):
        return stats.weighted_pair_correlation(x, y, w)

    return np.arange(n), None, statistic, pair_case.truth


pair_case.truth = None


def bootstrap_coverage(case: Callable, repeats: int) -> dict[str, float]:
    rng = np.random.default_rng(1)
    hits: dict[str, int] = {}
    for _ in range(repeats):
        subjects, strata, statistic, truth = case(rng)
        value = statistic(np.ones((1, len(subjects))))[0]
        replicates = statistic(stats.subject_counts(subjects, B, rng, strata))
        jackknife = statistic(leave_one_out(subjects))
        df = len(jackknife) - (1 if strata is None else len(np.unique(strata)))
        for name, (low, high) in intervals(value, replicates, jackknife, df).items():
            hits[name] = hits.get(name, 0) + (low <= truth <= high)
    return {name: count / repeats for name, count in hits.items()}


def frechet_coverage(n, m, d, shift, decay, repeats):
    """Share of intervals that hold the expected distance at this n; and the ratio of spreads."""
    rng = np.random.default_rng(2)
    scale = decay ** np.arange(d) * np.sqrt(d)
    results = []
    for _ in range(repeats):
        x = rng.normal(size=(n, d)) * scale + shift
        y = rng.normal(size=(m, d)) * scale
        a, b = (FeatureSet(v, np.arange(len(v)), np.zeros(len(v))) for v in (x, y))
        found = _frechet(a, b, rng)
        results.append((*astuple(found.overall)[:3], found.replicates.std(ddof=1)))
    return shares(results)


def kernel_coverage(n, m, d, shift, tails, repeats):
    """The same of the kernel distance; with `tails` of Student's t with ten degrees of freedom."""
    rng = np.random.default_rng(3)
    results = []
    for _ in range(repeats):
        x, y = (
            rng.normal(size=(size, d)) * (np.sqrt(8 / rng.chisquare(10, (size, 1))) if tails else 1)
            for size in (n, m)
        )
        x += shift
        found = stats.mmd_u(*((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))))
        results.append((found.value, found.low, found.high, found.se))
    return shares(results)


def shares(results):
    """Coverage of the mean value, and mean error over the values' standard deviation."""
    value, low, high, error = np.array(results).T
    held = (low <= value.mean()) & (value.mean() <= high)
    return held.mean(), error.mean() / value.std(ddof=1)


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"coverage of 95 % intervals, {repeats} simulated test sets, b = {B}")
    print("| case | expanded | percentile | basic | BCa | normal |")
    print("|---|---|---|---|---|---|")
    cases = {
        "mean, 30 subjects, 1-3 rows": mean_case,
        "mean, 20 subjects, 1-3 rows": lambda r: mean_case(r, 20),
        "mean, 100 subjects, 1-3 rows": lambda r: mean_case(r, 100),
        "mean, 30 subjects, log-normal": lognormal_case,
        "within-site correlation, 80 subjects": within_case,
        "AUC, 80 subjects": auc_case,
        "balanced accuracy, 4 x 20, one seed": lambda r: bacc_case(r, seed_sd=0, seeds=1),
        "balanced accuracy, 4 x 20, 3 seeds (sd 0.1)": lambda r: bacc_case(r, seed_sd=0.1),
        "balanced accuracy, 4 x 20, 3 seeds (sd 0.3)": bacc_case,
        "distance correlation, 40 subjects": pair_case,
        "distance correlation, 20 subjects": lambda r: pair_case(r, 20),
    }
    for name, case in cases.items():
        start = time.perf_counter()
        got = bootstrap_coverage(case, repeats)
        print("|", name, "|", " | ".join(f"{100 * v:.1f}" for v in got.values()), "|", flush=True)
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    print("\n| case | coverage | mean SE / true SD |\n|---|---|---|")
    for case in FRECHET:
        start = time.perf_counter()
        held, ratio = frechet_coverage(*case, max(100, repeats // 2))
        print("| FD |", *case, f"| {100 * held:.1f} | {ratio:.2f} |", flush=True)
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    for case in KERNEL:
        held, ratio = kernel_coverage(*case, repeats)
        print("| KD |", *case, f"| {100 * held:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
