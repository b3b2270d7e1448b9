import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductContext
from harmbench.protocol.site.accuracy import make_floor, site_bacc, site_bacc_frozen, site_excess

SITES = np.array(["ash", "birch", "cedar"])


def table(n=150, seed=0):
    rng = np.random.default_rng(seed)
    site = np.repeat(SITES, [n // 2, n // 3, n - n // 2 - n // 3])
    age = rng.normal(50, 5, n) + 30 * (site == "cedar")
    names = [f"{seed}-{i:03d}" for i in range(n)]
    return pd.DataFrame(
        {
            "participant_id": names,
            "session_id": "",
            "slice": 0,
            "site": site,
            "age": age,
            "sex": np.where(rng.random(n) < 0.5, "F", "M"),
        }
    )


def cohort(frame):
    images = np.zeros((len(frame), 7, 8), np.float32)
    return Cohort(images, frame, images == 0)


def probe(frame, right, seed=0, seeds=3):
    """Product of a probe that is right with a given probability, else says another site."""
    rng = np.random.default_rng(seed)
    truth = np.searchsorted(SITES, frame["site"])
    wrong = (truth + rng.integers(1, 3, (seeds, len(frame)))) % 3
    said = np.where(rng.random((seeds, len(frame))) < right, truth, wrong)
    loss = np.linspace(2, 1, 40) * np.ones((seeds, 1))
    return {"predicted": np.eye(3)[said], "classes": SITES, "training_loss": loss}


def inputs(frame, right=0.8, **more):
    products = {"best.site": probe(frame, right), "raw.test": cohort(frame), **more}
    return MetricInputs(products, "ash")


def rng():
    return np.random.default_rng(0)


def test_value_is_the_mean_over_seeds_of_balanced_accuracy():
    frame = table()
    given = inputs(frame)
    said = SITES[given.arrays("best.site")["predicted"].argmax(-1)]
    expected = np.mean([balanced_accuracy_score(frame["site"], row) for row in said])
    result = site_bacc(given, rng())
    assert result.overall.value == pytest.approx(expected)
    assert result.overall.low < expected < result.overall.high
    assert result.overall.n == len(frame)
    assert result.floors["chance"] == pytest.approx(1 / 3)


def test_groups_are_the_recalls_and_the_diagonal_of_the_confusion():
    result = site_bacc(inputs(table()), rng())
    confusion = result.arrays["confusion"]
    np.testing.assert_allclose(confusion.sum(1), 1)
    assert list(result.arrays["sites"]) == list(SITES)
    recalls = [result.groups[site].value for site in SITES]
    np.testing.assert_allclose(np.diag(confusion), recalls)
    assert np.mean(recalls) == pytest.approx(result.overall.value)


def test_target_is_the_oracle_and_only_without_one_the_floor():
    frame = table()
    floor = {"predicted": np.full(len(frame), "ash")}
    oracle = probe(frame, 0.5, seed=9)
    both = site_bacc(inputs(frame, **{"oracle:best.site": oracle, "floor.site": floor}), rng())
    alone = site_bacc(inputs(frame, **{"floor.site": floor}), rng())
    neither = site_bacc(inputs(frame), rng())
    said = SITES[oracle["predicted"].argmax(-1)]
    expected = np.mean([balanced_accuracy_score(frame["site"], row) for row in said])
    assert both.target == pytest.approx(expected)
    assert both.floors["age and sex"] == alone.target == pytest.approx(1 / 3)
    assert np.isnan(neither.target)


def test_excess_is_paired():
    frame = table()
    same = site_excess(inputs(frame, **{"oracle:best.site": probe(frame, 0.8)}), rng())
    assert same.overall.value == same.overall.low == same.overall.high == 0
    other = site_excess(inputs(frame, **{"oracle:best.site": probe(frame, 0.4, seed=5)}), rng())
    assert other.overall.low > 0.2
    assert other.overall.value == pytest.approx(
        site_bacc(inputs(frame), rng()).overall.value
        - site_bacc(inputs(frame, **{"best.site": probe(frame, 0.4, seed=5)}), rng()).overall.value
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_excess_over_another_number_of_seeds(seeds):
    frame = table()
    oracle = probe(frame, 0.4, seed=5, seeds=seeds)
    result = site_excess(inputs(frame, **{"oracle:best.site": oracle}), rng())
    assert result.overall.low > 0.15
    assert np.isfinite(result.replicates).all()


def test_excess_over_the_floor_and_over_nothing():
    frame = table()
    floor = {"predicted": np.full(len(frame), "ash")}
    result = site_excess(inputs(frame, **{"floor.site": floor}), rng())
    value = site_bacc(inputs(frame), rng()).overall.value
    assert result.overall.value == pytest.approx(value - 1 / 3)
    assert "oracle" in site_excess(inputs(frame), rng()).reason


def test_scans_of_a_site_that_the_probe_does_not_know_are_left_out():
    frame = table()
    given = inputs(frame)
    expected = site_bacc(given, rng()).overall
    strange = pd.concat([frame, table(20, seed=7).assign(site="elm")], ignore_index=True)
    extended = probe(strange.assign(site=strange["site"].replace("elm", "ash")), 0.8)
    extended["predicted"][:, : len(frame)] = given.arrays("best.site")["predicted"]
    result = site_bacc(
        MetricInputs({"best.site": extended, "raw.test": cohort(strange)}, "ash"), rng()
    )
    assert result.overall.value == pytest.approx(expected.value)
    assert result.overall.n == expected.n
    assert set(result.groups) == set(SITES)


def test_floor_reads_age_and_nothing_else():
    training, test = cohort(table(300)), cohort(table(300, seed=1))
    products = {"raw.probe": training, "raw.test": test}
    said = make_floor(MetricInputs(products, "ash"), ProductContext())["predicted"]
    truth = test.column("site")
    assert (said == "cedar")[truth == "cedar"].mean() > 0.9
    told_apart = balanced_accuracy_score(truth[truth != "cedar"], said[truth != "cedar"])
    assert abs(told_apart - 0.5) < 0.15


def test_floor_with_missing_covariates():
    training = table(300)
    training.loc[::3, "age"] = np.nan
    training.loc[::4, "sex"] = np.nan
    test = table(90, seed=1).assign(age=np.nan)
    products = {"raw.probe": cohort(training), "raw.test": cohort(test)}
    said = make_floor(MetricInputs(products, "ash"), ProductContext())["predicted"]
    assert said.shape == (90,) and set(said) <= set(SITES)


def test_frozen_probe_reads_the_given_images(monkeypatch):
    frame = table()
    raw, sharp = cohort(frame), cohort(frame).with_images(np.ones((150, 7, 8)))
    well, badly = probe(frame, 1.0)["predicted"], probe(frame, 0.0)["predicted"]

    def apply(arrays, task, images):
        assert task == "site"
        return well if images.max() > 0 else badly

    monkeypatch.setattr("harmbench.protocol.site.accuracy.apply_probe", apply)
    products = {"harmonized.test": sharp, "identity:probe.site": probe(frame, 0.8)}
    alone = site_bacc_frozen(MetricInputs(products, "ash"), rng())
    held = site_bacc_frozen(MetricInputs(products | {"oracle:harmonized.test": raw}, "ash"), rng())
    assert alone.overall.value == held.overall.value == 1
    assert alone.target == pytest.approx(1 / 3)
    assert held.target == 0
