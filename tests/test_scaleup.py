"""What does not fit into memory: blocks say the same, and a run holds a part at a time."""

from __future__ import annotations

import tracemalloc
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from baselines import combat
from harmbench.config import resolve
from harmbench.contracts.metric import MetricInputs, MetricResult
from harmbench.data import archive
from harmbench.data.toy import ToyDataset
from harmbench.engine.run import run
from harmbench.files import blocks
from harmbench.protocol.features import products as features
from harmbench.protocol.individuals import distances, reliability
from harmbench.protocol.individuals import identification as identity
from harmbench.protocol.people import median_raw_distance, people_of
from harmbench.protocol.quality import kernel
from harmbench.protocol.site import mixing
from harmbench.protocol.truth import errors as truth
from harmbench.results.folder import RunFolder
from harmbench.stats import comparisons

METRICS = (
    distances.distance_pcc,
    distances.distance_pcc_truth,
    kernel.kd_reference,
    mixing.ilisi,
    mixing.mmd,
    truth.truth_mae,
    truth.truth_mae_clean,
    truth.truth_psnr,
    truth.truth_ssim,
    identity.identification,
    identity.identification_margin,
    reliability.icc,
)


@pytest.fixture(scope="module")
def inputs() -> MetricInputs:
    data = ToyDataset(n=240, shape=(13, 11))
    cohort = data.load()
    rng = np.random.default_rng(5)
    other = data.truth("site-a", cohort.keys, draw=2)
    harmonized = cohort.with_images(0.6 * other + 0.4 * cohort.images)
    points = {name: rng.normal(size=(240, 9)) for name in ("test", "raw_test", "real")}
    return MetricInputs(
        {
            "raw.test": cohort,
            "raw.real": cohort.with_covariates(participant_id=[f"r{i}" for i in range(240)]),
            "harmonized.test": harmonized,
            "truth.test": cohort.with_images(data.truth("site-a", cohort.keys)),
            "truth.test.clean": cohort.with_images(data.truth("site-a", cohort.keys, clean=True)),
            "oracle:harmonized.test": cohort.with_images(other),
            **{f"features.random-conv.{name}": {"features": x} for name, x in points.items()},
        },
        "site-a",
    )


def same(one: MetricResult, other: MetricResult) -> None:
    assert one.overall is not None, one.reason
    pairs = [(one.overall, other.overall), *((one.groups[k], other.groups[k]) for k in one.groups)]
    for left, right in pairs:
        np.testing.assert_allclose(astuple(left), astuple(right), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(one.target, other.target, rtol=1e-9, atol=1e-12)
    if one.replicates is not None:
        np.testing.assert_allclose(one.replicates, other.replicates, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.info.name)
def test_a_metric_in_blocks_says_what_it_says_of_all_at_once(inputs, metric, monkeypatch) -> None:
    whole = metric(inputs, np.random.default_rng(1))
    monkeypatch.setattr(blocks, "BLOCK", 200_000)
    monkeypatch.setattr(kernel, "SUBJECTS_AT_ONCE", 50)
    same(whole, metric(inputs, np.random.default_rng(1)))


def test_the_median_raw_distance_is_the_median_over_pairs_of_people(inputs, monkeypatch) -> None:
    from scipy.spatial.distance import pdist

    people = people_of(inputs.cohort("raw.test"))
    points = people.average @ inputs.arrays("features.random-conv.raw_test")["features"]
    spread = inputs.arrays("features.random-conv.raw_test")["features"].std(0)
    expected = np.median(pdist(points / spread))
    assert median_raw_distance(inputs, people) == pytest.approx(expected, rel=1e-12)
    monkeypatch.setattr(blocks, "BLOCK", 30_000)
    assert median_raw_distance(inputs, people) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", [identity.identification, identity.identification_margin])
def test_people_whom_no_gallery_reaches_need_not_be_compared(inputs, metric, monkeypatch) -> None:
    near = metric(inputs, np.random.default_rng(1))
    seen = []

    def everyone(others, present):
        seen.append(others.shape[1])
        return others

    monkeypatch.setattr(identity, "_reached", everyone)
    same(near, metric(inputs, np.random.default_rng(1)))
    assert max(seen) > 2 * identity.GALLERY, "or nobody was left out"


def test_a_batch_of_large_images_is_smaller(monkeypatch) -> None:
    sizes = []

    def network(extractor, context):
        def forward(x):
            sizes.append(len(x))
            return x.flatten(1)[:, :3]

        return forward

    monkeypatch.setattr(features, "_network", network)
    for n, side, batch in ((130, 32, 32), (130, 64, 8), (70, 128, 2), (2, 1024, 1)):
        images = np.zeros((n, side, side), dtype=np.float32)
        features.extract(images, "random-conv", features.ProductContext())
        assert max(sizes) == batch
        sizes.clear()


def write_archive(path: Path, n: int, shape: tuple[int, int]) -> int:
    rng = np.random.default_rng(n)
    site = np.arange(n) % 3
    images = rng.random((n, *shape), dtype=np.float32) / 3 + 0.1 * site[:, None, None]
    np.savez(
        path,
        images=images.astype(np.float32),
        mask=np.ones(images.shape, dtype=bool),
        participant_id=np.array([f"p{i:04d}" for i in range(n)]),
        site=np.array(["a", "b", "c"])[site],
        age=rng.uniform(20, 70, n).round(1),
        sex=np.array(["F", "M"])[rng.integers(0, 2, n)],
    )
    return images.nbytes


def harmonize(path: Path, out: Path) -> pd.DataFrame:
    metrics = ["distance_pcc"]
    config = resolve(
        data=str(path), methods=["combat"], controls=["none"], metrics=metrics, threads=1
    )
    return run(config, out).scores


def test_a_run_holds_a_part_of_a_cohort_and_says_what_it_says_of_one_in_memory(
    tmp_path: Path, monkeypatch
) -> None:
    size = write_archive(tmp_path / "data.npz", 600, (70, 66))
    expected = harmonize(tmp_path / "data.npz", tmp_path / "in-memory")
    monkeypatch.setattr(archive, "LEAST_MAPPED", 1)
    monkeypatch.setattr(blocks, "BLOCK", 2**19)
    monkeypatch.setattr(combat, "VALUES_AT_ONCE", 2**16)
    monkeypatch.setattr(comparisons, "_CHUNK", 2**14)
    tracemalloc.start()
    try:
        got = harmonize(tmp_path / "data.npz", tmp_path / "mapped")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Two fifths of the images and of the masks, which the fit holds, and little else.
    assert peak < 0.8 * size, f"{peak / size:.2f} of the images"
    pd.testing.assert_frame_equal(got, expected, rtol=1e-6)
    images = [_harmonized(tmp_path / name) for name in ("in-memory", "mapped")]
    np.testing.assert_allclose(*images, rtol=0, atol=1e-6)


def _harmonized(out: Path) -> np.ndarray:
    (file,) = (RunFolder(out).root / "cells").glob("combat-*/seed-0/products/harmonized.test-*.npy")
    return np.load(file, mmap_mode="r")
