"""The way from data to scores on toy data: resuming, extending, failing, refusing."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

import harmbench.data.toy
from harmbench.config import MethodSpec, RunConfig, resolve
from harmbench.engine.run import run
from harmbench.errors import HarmbenchError
from harmbench.results.folder import RunFolder

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
METRICS = ["distance_pcc", "truth_mae"]
FOLDS = 5
"""The toy cohort is small enough to be cross-fitted, so every method is fitted twice."""
PLUGINS = """
import os

import numpy as np
from harmbench import Estimate, Harmonizer, MethodInfo, MetricResult
from harmbench.contracts.metric import metric


class Base(Harmonizer):
    name = "base"

    @property
    def info(self):
        return MethodInfo(self.name, self.name, "does a thing")

    def fit(self, cohort, context):
        with open(LOG, "a") as log:
            log.write(self.name + "\\n")
        return self

    def harmonize(self, cohort, target=None, *, context):
        return np.array(cohort.images)

    def save(self, folder):
        pass

    @classmethod
    def load(cls, folder):
        return cls()


class Good(Base):
    name = "good"


class Raises(Base):
    name = "raises"

    def harmonize(self, cohort, target=None, *, context):
        raise RuntimeError("out of cheese")


class Nan(Base):
    name = "nan"

    def harmonize(self, cohort, target=None, *, context):
        return np.full_like(cohort.images, np.nan)


class Shape(Base):
    name = "shape"

    def harmonize(self, cohort, target=None, *, context):
        return cohort.images[:, :-1]


class Greedy(Base):
    name = "greedy"

    def harmonize(self, cohort, target=None, *, context):
        cohort.column("age")
        return np.array(cohort.images)


class Skips(Base):
    name = "skips"

    def skip(self, cohort):
        return "only on Sundays"


class Stops(Base):
    name = "stops"

    def fit(self, cohort, context):
        if os.path.exists(STOP):
            raise KeyboardInterrupt
        return super().fit(cohort, context)


@metric(label="Mean", axis="quality", level="five", direction="higher", needs=("harmonized.test",))
def mean_intensity(inputs, rng):
    '''Mean intensity.'''
    images = inputs.cohort("harmonized.test").images
    return MetricResult(Estimate(float(images.mean()), n=len(images)))
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    file = tmp_path / "plugins.py"
    paths = f"LOG, STOP = {str(tmp_path / 'fits.log')!r}, {str(tmp_path / 'stop')!r}\n"
    file.write_text(paths + PLUGINS)
    return file


def config(*methods: str, **settings: object) -> RunConfig:
    return resolve(
        **{"data": TOY, "methods": methods, "metrics": METRICS, "threads": 1, **settings}
    )


def fits(tmp_path: Path) -> list[str]:
    log = tmp_path / "fits.log"
    return log.read_text().split() if log.exists() else []


def test_identity_scores_as_known(tmp_path: Path) -> None:
    scores = run(config(), tmp_path / "out").scores
    overall = scores[scores["group"] == "all"].set_index(["method", "metric"])
    assert overall.loc[("identity", "distance_pcc"), "value"] == pytest.approx(1, abs=1e-6)
    truth = overall.xs("truth_mae", level="metric")["value"]
    assert truth.idxmin() == "oracle"
    assert set(overall["status"]) == {"ok"}


def test_the_same_run_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    run(config(), tmp_path / "a")
    run(config(), tmp_path / "b")
    assert (tmp_path / "a/scores.csv").read_bytes() == (tmp_path / "b/scores.csv").read_bytes()


def test_a_second_method_adds_only_itself(tmp_path: Path, plugins: Path) -> None:
    out = tmp_path / "out"
    first = run(config(f"{plugins}:Good"), out).scores
    assert fits(tmp_path) == ["good"] * FOLDS
    second = run(config("blur"), out).scores
    assert fits(tmp_path) == ["good"] * FOLDS, "the first method was fitted again"
    assert set(second["label"]) == {*first["label"], "blur"}
    kept = second[second["label"] != "blur"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, first, check_like=True)


def test_a_new_metric_harmonizes_nothing_again(tmp_path: Path, plugins: Path) -> None:
    out = tmp_path / "out"
    run(config(f"{plugins}:Good"), out)
    products = {p: p.stat().st_mtime_ns for p in out.rglob("harmonized*.npy")}
    scores = run(config(metrics=[f"{plugins}:mean_intensity"]), out).scores
    assert "mean_intensity" in set(scores["metric"])
    assert products == {p: p.stat().st_mtime_ns for p in out.rglob("harmonized*.npy")}
    assert fits(tmp_path) == ["good"] * FOLDS


def test_a_stopped_run_goes_on(tmp_path: Path, plugins: Path) -> None:
    command = config(f"{plugins}:Good", f"{plugins}:Stops")
    (tmp_path / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        run(command, tmp_path / "out")
    assert fits(tmp_path) == ["good"] * FOLDS
    (tmp_path / "stop").unlink()
    run(command, tmp_path / "out")
    assert fits(tmp_path) == ["good"] * FOLDS + ["stops"] * FOLDS, "done twice"
    run(command, tmp_path / "undisturbed")
    resumed, undisturbed = (tmp_path / n / "scores.csv" for n in ("out", "undisturbed"))
    assert resumed.read_bytes() == undisturbed.read_bytes()


def test_a_result_without_its_mark_is_made_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(config(), out)
    expected = (out / "scores.csv").read_bytes()
    for mark in [*out.rglob("truth_mae-*.json"), *out.rglob("harmonized.test-*.json")]:
        mark.unlink()
    for payload in out.rglob("harmonized.test-*.npy"):
        payload.write_bytes(b"torn")
    (out / "scores.csv").unlink()
    run(config(), out)
    assert (out / "scores.csv").read_bytes() == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Raises", "out of cheese"),
        ("Nan", "NaN or infinite values"),
        ("Shape", "returned images of shape"),
        ("Greedy", "column 'age' is not there"),
    ],
)
def test_a_failing_method_is_a_row_with_its_reason(
    tmp_path: Path, plugins: Path, name: str, reason: str
) -> None:
    summary = run(config(f"{plugins}:{name}"), tmp_path / "out")
    rows = summary.scores[summary.scores["label"] == name]
    assert set(rows["status"]) == {"failed"}
    assert all(reason in text for text in rows["reason"])
    assert len(summary.failed) == 1
    others = summary.scores[summary.scores["label"] != name]
    assert set(others["status"]) == {"ok"}


def test_a_method_may_skip_with_a_reason(tmp_path: Path, plugins: Path) -> None:
    summary = run(config(f"{plugins}:Skips"), tmp_path / "out")
    rows = summary.scores[summary.scores["label"] == "Skips"]
    assert set(rows["status"]) == {"skipped"}
    assert set(rows["reason"]) == {"only on Sundays"}
    assert not summary.failed


def test_a_metric_that_needs_more_scans_says_so(tmp_path: Path) -> None:
    scores = run(config(metrics=["site_bacc_cnn", "fd_pooled"]), tmp_path / "out").scores
    assert set(scores["status"]) == {"skipped"}
    assert all("needs 100 scored scans; there are" in reason for reason in scores["reason"])


STUDY = """
import numpy as np
from harmbench.data.toy import ToyDataset


class Study(ToyDataset):
    def load(self, progress=None):
        cohort = super().load(progress)
        n = len(cohort)
        edu = np.arange(n) % 7 + 8.0
        edu[[3, 11, 30]] = np.nan
        volume = np.random.default_rng(0).normal(1400, 90, n).astype(np.float32)
        words = [f"{i % 3:02}" for i in range(n)]
        table = cohort.participants.assign(edu=edu, volume=volume, code=words)
        return type(cohort)(cohort.images, table, cohort.mask)
"""


@pytest.mark.parametrize("jobs", [None, 1])
def test_further_columns_are_the_same_in_one_go_resumed_and_in_processes(
    tmp_path: Path, jobs: int | None
) -> None:
    """Columns with gaps, of float32, and words that look like numbers."""
    (tmp_path / "study.py").write_text(STUDY)
    study = f"{tmp_path / 'study.py'}:Study"
    spec = MethodSpec(name="combat", params={"covariates": ["age", "edu", "volume"]})
    at_once = run(config(data=study, methods=[spec]), tmp_path / "at-once").scores
    assert set(at_once["status"]) == {"ok"}
    run(config("blur", data=study), tmp_path / "later")
    later = run(config(data=study, methods=[spec]), tmp_path / "later", jobs=jobs).scores
    later = later[later["label"] != "blur"].reset_index(drop=True)
    pd.testing.assert_frame_equal(at_once, later, check_exact=True)


GATED = """
from harmbench.data.toy import ToyDataset


class Gated(ToyDataset):
    probe_gate = ("site_bacc", 1.1)
"""


def test_a_gate_on_probes_hangs_on_no_other_metric(tmp_path: Path) -> None:
    """Whether probes learn is computed where it is not asked for, too, and adds no row."""
    data = tmp_path / "gated.py"
    data.write_text(GATED)
    asked = {"data": f"{data}:Gated", "data_options": {"n": 480}, "probe": {"images": 100}}

    def rows(name: str, *metrics: str) -> pd.DataFrame:
        scores = run(config(metrics=list(metrics), **asked), tmp_path / name).scores
        assert set(scores["metric"]) == set(metrics)
        return scores.set_index(["metric", "label", "group"]).sort_index()

    alone = rows("alone", "age_mae", "distance_pcc")
    beside = rows("beside", "age_mae", "distance_pcc", "site_bacc")
    pd.testing.assert_frame_equal(alone, beside.loc[["age_mae", "distance_pcc"]])
    noted = alone.xs("all", level="group")["reason"]
    assert all("site_bacc of unharmonized images" in text for text in noted["age_mae"])
    assert not any("underfit" in text for text in noted["distance_pcc"]), "it trains no probe"


def test_other_data_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(config(), out)
    before = sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*"))
    with pytest.raises(HarmbenchError, match="data_seed is 0 there and 3 here"):
        run(config(data_seed=3), out)
    assert before == sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*"))


def test_an_unknown_reference_site_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(HarmbenchError, match="'nowhere' is not a site"):
        run(config(reference_site="nowhere"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_names_are_refused_at_once() -> None:
    with pytest.raises(HarmbenchError, match="did you mean 'combat'"):
        resolve(methods=["combta"])
    with pytest.raises(HarmbenchError, match="unknown control 'identty'; did you mean 'identity'"):
        resolve(controls=["identty"])
    with pytest.raises(HarmbenchError, match="unknown metric 'site_bac'"):
        resolve(metrics=["site_bac"])
    with pytest.raises(HarmbenchError, match="unknown data set 'phantm'; did you mean 'phantom'"):
        resolve(data="phantm")
    with pytest.raises(HarmbenchError, match="unknown preset 'smok'; did you mean 'smoke'"):
        resolve(preset="smok")


def test_a_moved_folder_stays_readable(tmp_path: Path) -> None:
    run(config(), tmp_path / "out")
    shutil.move(tmp_path / "out", tmp_path / "elsewhere")
    folder = RunFolder(tmp_path / "elsewhere")
    assert len(folder.scores()) > 0
    index = folder.table("cells")
    assert all((folder.root / f"{s}.json").is_file() for c in index for s in c["scores"].values())


def test_travelling_subjects_stand_in_for_the_truth(tmp_path: Path) -> None:
    from harmbench.data.bids_write import write_bids
    from harmbench.data.phantom import phantom_dev

    phantom = phantom_dev(n=100, n_sites=2, size=32, travelling=24)
    write_bids(phantom.load(), tmp_path / "study", spacing_mm=phantom.spacing_mm, name="study")
    command = {
        "data": str(tmp_path / "study"),
        "metrics": ["truth_mae", "truth_ssim", "distance_pcc_truth"],
        "reference_site": "siteA",
        "data_options": {"size": 32},
    }
    scores = run(config("combat", **command), tmp_path / "out").scores
    overall = scores[scores["group"] == "all"].set_index(["label", "metric"])
    error = overall.xs("truth_mae", level="metric")
    assert set(error["status"]) == {"ok"}, set(error["reason"])
    assert error.loc["combat", "n"] == 24
    assert "24 travelling subjects" in error.loc["combat", "reason"]
    assert error["value"].idxmin() == "combat"
    assert error["value"].idxmax() == "shuffle"
    assert overall.loc[("combat", "distance_pcc_truth"), "status"] == "skipped"
