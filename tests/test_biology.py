import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import (
    balanced_accuracy_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.protocol.biology.age_and_sex import (
    age_mae,
    age_r2,
    age_skill_within,
    sex_auc,
    sex_bacc,
)

SITES = np.array(["ash", "birch", "cedar"])


def table(n=150, seed=0):
    rng = np.random.default_rng(seed)
    site = np.arange(n) % 3
    return pd.DataFrame(
        {
            "participant_id": [f"{seed}-{i:03d}" for i in range(n)],
            "session_id": "",
            "slice": 0,
            "site": SITES[site],
            "age": 40 + 15 * site + rng.uniform(-15, 15, n),
            "sex": np.where(rng.random(n) < np.array([0.2, 0.5, 0.8])[site], "F", "M"),
        }
    )


def cohort(frame):
    images = np.zeros((len(frame), 7, 8), np.float32)
    return Cohort(images, frame, images == 0)


def given(frame, **arrays):
    """Inputs of both tasks; `predicted` of the product that is named."""
    loss = np.linspace(2, 1, 40) * np.ones((3, 1))
    products = {"raw.probe": cohort(table(240, seed=1)), "raw.test": cohort(frame)}
    for task, predicted in arrays.items():
        classes = np.array(["F", "M"]) if task == "sex" else np.array([], "<U1")
        products[f"best.{task}"] = {
            "predicted": predicted,
            "classes": classes,
            "training_loss": loss,
        }
    return MetricInputs(products, "ash")


def noisy_ages(frame, spread=6.0):
    rng = np.random.default_rng(2)
    return frame["age"].to_numpy() + rng.normal(0, spread, (3, len(frame)))


def noisy_sexes(frame):
    rng = np.random.default_rng(3)
    logit = 2 * (frame["sex"] == "M").to_numpy() - 1 + rng.normal(0, 1, (3, len(frame)))
    second = 1 / (1 + np.exp(-logit))
    return np.stack([1 - second, second], axis=-1)


def rng():
    return np.random.default_rng(0)


def test_age_metrics_agree_with_scikit_learn():
    frame = table()
    predicted = noisy_ages(frame)
    inputs = given(frame, age=predicted)
    for metric, reference in ((age_mae, mean_absolute_error), (age_r2, r2_score)):
        result = metric(inputs, rng())
        expected = np.mean([reference(frame["age"], row) for row in predicted])
        assert result.overall.value == pytest.approx(expected)
        assert result.overall.low < expected < result.overall.high


def test_sex_metrics_agree_with_scikit_learn():
    frame = table()
    predicted = noisy_sexes(frame)
    inputs = given(frame, sex=predicted)
    said = np.array(["F", "M"])[predicted.argmax(-1)]
    expected = np.mean([balanced_accuracy_score(frame["sex"], row) for row in said])
    assert sex_bacc(inputs, rng()).overall.value == pytest.approx(expected)
    expected = np.mean([roc_auc_score(frame["sex"] == "M", row) for row in predicted[..., 1]])
    assert sex_auc(inputs, rng()).overall.value == pytest.approx(expected)


def test_guessing_the_sites_age_earns_no_skill():
    frame = table()
    usual = frame["site"].map({"ash": 40.0, "birch": 55.0, "cedar": 70.0}).to_numpy()
    inputs = given(frame, age=np.tile(usual, (3, 1)))
    assert age_r2(inputs, rng()).overall.value > 0.4
    assert age_skill_within(inputs, rng()).overall.value == pytest.approx(0, abs=1e-9)
    result = age_mae(inputs, rng())
    assert result.overall.value == pytest.approx(result.floors["within-site median"], rel=0.1)
    assert result.floors["within-site median"] < result.floors["overall median"]


def test_a_constant_has_skill_zero():
    frame = table()
    result = age_skill_within(given(frame, age=np.full((3, len(frame)), 50.0)), rng())
    assert result.overall.value == result.overall.low == result.overall.high == 0
    assert all(estimate.value == 0 for estimate in result.groups.values())


def test_skill_ignores_scale_and_shifts_of_sites():
    frame = table()
    predicted = noisy_ages(frame)
    shifted = 0.3 * predicted + frame["site"].map({"ash": 9, "birch": -4, "cedar": 0}).to_numpy()
    one, other = (
        age_skill_within(given(frame, age=p), rng()).overall.value for p in (predicted, shifted)
    )
    assert one == pytest.approx(other)
    assert 0.7 < one < 0.95


def test_floors_come_from_the_probe_part():
    frame = table()
    training = table(240, seed=1)
    result = age_mae(given(frame, age=noisy_ages(frame)), rng())
    median = training["age"].median()
    assert result.floors["overall median"] == pytest.approx((frame["age"] - median).abs().mean())
    within = frame["site"].map(training.groupby("site")["age"].median())
    expected = (frame["age"] - within).abs().mean()
    assert result.floors["within-site median"] == pytest.approx(expected)


def test_the_floor_of_sex_guesses_the_sites_majority():
    frame = table()
    result = sex_bacc(given(frame, sex=noisy_sexes(frame)), rng())
    usual = table(240, seed=1).groupby("site")["sex"].agg(lambda c: c.mode().iloc[0])
    expected = balanced_accuracy_score(frame["sex"], frame["site"].map(usual))
    assert result.floors["site's majority"] == pytest.approx(expected)
    assert expected > result.floors["chance"] == 0.5


def test_missing_labels_are_left_out():
    frame = table()
    ages, sexes = noisy_ages(frame), noisy_sexes(frame)
    hidden = np.arange(len(frame)) % 4 == 1
    holes = frame.assign(age=frame["age"].mask(hidden), sex=frame["sex"].mask(hidden))
    inputs = given(holes, age=ages, sex=sexes)
    result = age_mae(inputs, rng())
    assert result.overall.value == pytest.approx(
        np.abs(ages - frame["age"].to_numpy())[:, ~hidden].mean()
    )
    assert result.overall.n == (~hidden).sum() == len(result.per_scan)
    assert sex_auc(inputs, rng()).overall.n == (~hidden).sum()


def test_per_scan_table():
    frame = table()
    predicted = noisy_ages(frame)
    result = age_mae(given(frame, age=predicted), rng())
    assert {"participant_id", "site", "age", "predicted"} <= set(result.per_scan)
    np.testing.assert_allclose(result.per_scan["predicted"], predicted.mean(0))
    error = np.abs(predicted - frame["age"].to_numpy())
    for site, estimate in result.groups.items():
        assert estimate.value == pytest.approx(error[:, frame["site"] == site].mean())
        assert estimate.n == (frame["site"] == site).sum()


def test_sessions_of_a_subject_are_resampled_together():
    frame = table(60)
    twice = pd.concat([frame, frame.assign(session_id="2")], ignore_index=True)
    ages = noisy_ages(frame)
    once = age_mae(given(frame, age=ages), rng())
    doubled = age_mae(given(twice, age=np.tile(ages, 2)), rng())
    assert doubled.overall.n == 60
    assert doubled.overall.value == pytest.approx(once.overall.value)
    width = once.overall.high - once.overall.low
    assert doubled.overall.high - doubled.overall.low == pytest.approx(width, rel=0.15)


def test_one_sex_and_one_age_are_skips():
    frame = table()
    women = given(frame.assign(sex="F"), sex=noisy_sexes(frame))
    assert "one sex" in sex_bacc(women, rng()).reason
    assert "one sex" in sex_auc(women, rng()).reason
    same = given(frame.assign(age=40.0), age=noisy_ages(frame))
    for metric in (age_mae, age_r2, age_skill_within):
        assert metric(same, rng()).overall is None


def test_underfit_is_noted():
    frame = table()
    inputs = given(frame, age=noisy_ages(frame))
    assert age_mae(inputs, rng()).note == ""
    inputs.arrays("best.age")["training_loss"][:] = 1.0
    assert age_mae(inputs, rng()).note == "underfit"
