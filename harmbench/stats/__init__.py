"""Resampling, weighted statistics, intervals, tests and comparisons (numpy only).

Every test set is resampled as weights, not as rows: replicate i of every metric and of every
method gives each subject the same weight, so that differences are paired by construction. A metric
draws `subject_counts` first, from the whole test table, and only then takes the rows it needs.

Shapes: `n` rows, `s` probe seeds, `b` replicates. Weights are (b, n); a statistic of values (n,)
comes back as (b,), one of values (s, n), a row a seed, as (b, s) for `over_seeds`. What the
choices made here cover, measured: docs/statistics.md.
"""

from harmbench.stats.comparisons import (
    Difference,
    Verdict,
    holm,
    mantel_p,
    paired_difference,
    spearman_p,
    verdict,
)
from harmbench.stats.intervals import (
    LEVEL,
    Interval,
    Orders,
    half_sample_orders,
    normal_interval,
    percentile_interval,
    squared_distance_interval,
    subsample_se,
)
from harmbench.stats.mmd import MMD, mmd_u
from harmbench.stats.resampling import (
    REPLICATES,
    over_seeds,
    seed_weights,
    subject_counts,
    subsample,
)
from harmbench.stats.weighted import (
    fisher_pool,
    ranks,
    weighted_auc,
    weighted_balanced_accuracy,
    weighted_correlation,
    weighted_mean,
    weighted_pair_correlation,
)

__all__ = [
    "LEVEL",
    "MMD",
    "REPLICATES",
    "Difference",
    "Interval",
    "Orders",
    "Verdict",
    "fisher_pool",
    "half_sample_orders",
    "holm",
    "mantel_p",
    "mmd_u",
    "normal_interval",
    "over_seeds",
    "paired_difference",
    "percentile_interval",
    "ranks",
    "seed_weights",
    "spearman_p",
    "squared_distance_interval",
    "subject_counts",
    "subsample",
    "subsample_se",
    "verdict",
    "weighted_auc",
    "weighted_balanced_accuracy",
    "weighted_correlation",
    "weighted_mean",
    "weighted_pair_correlation",
]
