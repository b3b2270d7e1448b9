"""Images that leave the suite and come back: harmonize, export, evaluate."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from support import save_bids_scan
from typer.testing import CliRunner

import harmbench.data.toy
from harmbench.cli.app import app
from harmbench.config import MethodSpec, RunConfig, resolve
from harmbench.contracts.method import ApplyContext
from harmbench.contracts.product import ProductUnavailable
from harmbench.data.arrays import save_npz
from harmbench.data.bids import BIDSDataset
from harmbench.data.preprocess import PreprocessConfig, prepare
from harmbench.data.splits import make_split, validation_keys
from harmbench.data.toy import ToyDataset
from harmbench.engine.keys import Cell, Keys, unavailable
from harmbench.engine.run import run
from harmbench.engine.train import train
from harmbench.errors import HarmbenchError
from harmbench.exchange.evaluate import check, returned_spec
from harmbench.exchange.export import export
from harmbench.exchange.harmonize import harmonize
from harmbench.exchange.returned import Files, Returned, read_slice
from harmbench.progress import Progress
from harmbench.protocol import PRODUCTS

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
THREE_PARTS = {"n": 72, "sites": 2, "shape": (7, 9)}
CROSS_FITTED = {"n": 44, "sites": 2, "shape": (7, 9)}
IMAGES_ONLY = ["distance_pcc", "distance_pcc_truth", "truth_mae", "effect_correlation"]
MORE = ["false_effects"]
ROOT = Path(__file__).parents[1]


def config(*methods: str | MethodSpec, options: dict | None = None, **more: object) -> RunConfig:
    settings = {"data": TOY, "threads": 1, "controls": ["none"], "metrics": ["truth_mae"], **more}
    known = CROSS_FITTED if options is None else options
    return resolve(methods=methods, data_options=known, **settings)


class Said(Progress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


def evaluate(folder: Path, out: Path, name: str = "mine", **settings: object) -> pd.DataFrame:
    """Return the scores of returned images, as `harmbench evaluate` computes them."""
    spec = returned_spec(folder, name)
    progress = settings.pop("progress", Progress())
    checked = partial(check, spec=spec, progress=progress)
    return run(config(spec, **settings), out, check=checked).scores


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    export(config(), tmp_path / "data")
    return tmp_path / "data"


def image_of(folder: Path, number: int, ending: str = ".nii.gz") -> Path:
    name = f"sub-toy{number:04d}"
    return folder / name / "anat" / f"{name}_desc-preproc_T1w{ending}"


def rewrite(file: Path, change: Callable[[np.ndarray], np.ndarray], turn: int = 1) -> None:
    image = nib.load(file)
    affine = image.affine @ np.diag([turn, 1, 1, 1])
    nib.save(nib.Nifti1Image(change(image.get_fdata(dtype=np.float32)), affine), file)


# -- the promise: harmonize, then evaluate, equals run ----------------------------------------


@pytest.mark.parametrize(
    ("method", "options"), [("combat", CROSS_FITTED), ("shuffle", THREE_PARTS)]
)
def test_harmonize_then_evaluate_equals_run(tmp_path: Path, method: str, options: dict) -> None:
    metrics = {"metrics": [*IMAGES_ONLY, *MORE], "options": options}
    run(config(method, **metrics), tmp_path / "run")
    harmonize(config(method, options=options), tmp_path / "images")
    scores = evaluate(tmp_path / "images", tmp_path / "run", **metrics)
    by_label = dict(list(scores.groupby("label")))
    columns = ["metric", "group", "value", "ci_low", "ci_high", "target", "n", "status", "reason"]
    both = [
        by_label[label].loc[lambda t: ~t["metric"].isin(MORE), columns].reset_index(drop=True)
        for label in (method, "mine")
    ]
    assert set(both[0]["status"]) == {"ok"}
    pd.testing.assert_frame_equal(both[0], both[1], rtol=0, atol=1e-6)
    other = by_label["mine"].set_index("metric").loc[MORE]
    assert set(other["status"]) == {"skipped"}
    assert all("made elsewhere; needs them harmonized again" in text for text in other["reason"])


def test_what_images_alone_cannot_answer_is_unavailable() -> None:
    info = Returned().info
    products = {product.name: product for product in PRODUCTS}
    split = make_split(ToyDataset(**THREE_PARTS).load(), 0)
    keys = Keys(config(), "data", "site-a", products, {}, split)
    known = {"has_truth": True, "is_table": False, "keys": keys}

    def reason(name: str) -> str | None:
        return unavailable(name, Cell(MethodSpec(name="returned"), info), **known)

    more = ("own_site.test", "features.random-conv.own_site", "placebo.test.3", "leakage.age")
    for name in (*more, "leakage.sex"):
        assert "made elsewhere" in (reason(name) or ""), name
    for name in ("harmonized.test", "harmonized.fit", "probe.age", "truth.test", "raw.fit"):
        assert reason(name) is None, name
    real = Cell(MethodSpec(name="combat"), replace(info, images_only=False))
    assert unavailable("placebo.test.3", real, **known) is None


# -- harmonize --------------------------------------------------------------------------------


def test_harmonized_folders_say_what_they_are_and_are_read_as_bids(tmp_path: Path) -> None:
    material = harmonize(config("combat"), tmp_path / "out")
    said = json.loads((tmp_path / "out/harmonize.json").read_text())
    assert (said["method"], said["target"], said["method_seed"]) == ("combat", "site-a", 0)
    assert said["fingerprint"] == ToyDataset(**CROSS_FITTED).fingerprint
    assert [one["origin"] for one in said["weights"]] == ["trained"] * 5
    described = json.loads((tmp_path / "out/dataset_description.json").read_text())
    assert described["GeneratedBy"][0]["Name"] == "harmbench"
    files = Files(tmp_path / "out")
    assert len(files.by_place) == len(material.cohort) == 44
    table = pd.read_csv(tmp_path / "out/split.tsv", sep="\t")
    for row, file in enumerate(table["file"]):
        image = read_slice(tmp_path / "out" / file, (7, 9))
        np.testing.assert_array_equal(image, material.cohort.images[row])
    assert not list(tmp_path.glob(".*")), "its workshop was left behind"


def test_an_occupied_folder_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("dear")
    for write in (partial(export, config()), partial(harmonize, config("combat"))):
        with pytest.raises(HarmbenchError, match="is not an empty folder"):
            write(tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_another_target_is_for_methods_that_render_to_any_site(tmp_path: Path) -> None:
    with pytest.raises(HarmbenchError, match="give --reference-site site-b"):
        harmonize(config("combat"), tmp_path / "no", target="site-b")
    with pytest.raises(HarmbenchError, match="unknown site 'site-x'"):
        harmonize(config("site-shift"), tmp_path / "no", target="site-x")
    assert list(tmp_path.iterdir()) == []
    to_b = harmonize(config("site-shift"), tmp_path / "b", target="site-b")
    fitted_to_b = harmonize(config("site-shift", reference_site="site-b"), tmp_path / "b2")
    np.testing.assert_allclose(to_b.cohort.images, fitted_to_b.cohort.images, atol=1e-6)
    with pytest.raises(HarmbenchError, match="target is 'site-b' there and 'site-a' here"):
        evaluate(tmp_path / "b", tmp_path / "run")
    scores = evaluate(tmp_path / "b", tmp_path / "run", reference_site="site-b")
    assert "ok" in set(scores["status"])


def test_saved_weights_are_taken_up(tmp_path: Path) -> None:
    here = harmonize(config("combat", options=THREE_PARTS), tmp_path / "fitted")
    train(config("combat", options=THREE_PARTS), tmp_path / "weights")
    given = [f"combat={tmp_path / 'weights/combat'}"]
    there = harmonize(config("combat", options=THREE_PARTS, weights=given), tmp_path / "loaded")
    np.testing.assert_array_equal(here.cohort.images, there.cohort.images)
    said = json.loads((tmp_path / "loaded/harmonize.json").read_text())
    assert [one["origin"] for one in said["weights"]] == ["given"]


PLUGIN = """
import os

import numpy as np
from harmbench import Harmonizer, MethodInfo


class Stops(Harmonizer):
    @property
    def info(self):
        return MethodInfo("stops", "Stops", "stops in its second fit")

    def fit(self, cohort, context):
        with open(LOG, "a") as log:
            log.write(".")
        if os.path.getsize(LOG) == 2:
            raise KeyboardInterrupt
        return self

    def harmonize(self, cohort, target=None, *, context):
        return np.array(cohort.images)

    def save(self, folder):
        pass

    @classmethod
    def load(cls, folder):
        return cls()


class Breaks(Stops):
    def fit(self, cohort, context):
        raise RuntimeError("out of cheese")
"""


def test_a_stopped_call_goes_on_and_a_failed_one_says_why(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text(f"LOG = {str(tmp_path / 'log')!r}\n{PLUGIN}")
    with pytest.raises(KeyboardInterrupt):
        harmonize(config(f"{plugin}:Stops"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    harmonize(config(f"{plugin}:Stops"), tmp_path / "out")
    assert (tmp_path / "log").read_text() == "." * 6, "the first fit was done again"
    assert len(Files(tmp_path / "out").by_place) == 44
    with pytest.raises(HarmbenchError, match="Breaks failed: fit: RuntimeError: out of cheese"):
        harmonize(config(f"{plugin}:Breaks"), tmp_path / "broken")
    assert not (tmp_path / "broken").exists()


# -- export -----------------------------------------------------------------------------------


def test_the_export_holds_what_methods_see_and_the_split(tmp_path: Path) -> None:
    export(config(options=THREE_PARTS), tmp_path / "out")
    dataset = ToyDataset(**THREE_PARTS)
    cohort = dataset.load()
    split = make_split(cohort, 0)
    table = pd.read_csv(tmp_path / "out/split.tsv", sep="\t", keep_default_na=False)
    assert table["part"].tolist() == split.part.tolist()
    chosen = set(validation_keys(cohort.subset(split.part == "fit"), 0))
    assert (table["validation"] == "yes").tolist() == [key in chosen for key in cohort.keys]
    assert len(chosen) > 0
    np.testing.assert_allclose(table["age"].astype(float), cohort.column("age"))
    for row, file in enumerate(table["file"]):
        image = nib.load(tmp_path / "out" / file)
        assert image.get_data_dtype() == np.float32
        np.testing.assert_array_equal(np.asanyarray(image.dataobj)[..., 0], cohort.images[row])
        mask = nib.load(tmp_path / "out" / file.replace("desc-preproc_T1w", "desc-brain_mask"))
        np.testing.assert_array_equal(mask.get_fdata()[..., 0] > 0, cohort.mask[row])
    said = json.loads((tmp_path / "out/export.json").read_text())
    assert said["fingerprint"] == dataset.fingerprint
    assert (said["reference_site"], said["shape"], said["data_seed"]) == ("site-a", [7, 9], 0)
    assert "to the site **site-a**" in (tmp_path / "out/README.md").read_text()


def turned(
    angle: float, sides: tuple[float, float, float], flip: int, tilt: float = 0.0
) -> np.ndarray:
    """Return an affine turned by `angle` degrees in the axial plane, then tilted out of it."""
    a, t = np.radians([angle, tilt])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    lift = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    affine = np.eye(4)
    affine[:3, :3] = lift @ turn @ np.diag(np.array(sides) * [flip, 1, 1])
    affine[:3, 3] = [-31.0 * flip, -47.0, -20.0]
    return affine


@pytest.mark.parametrize("center", ["brain", "image"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("flip", [1, -1])
def test_the_affine_says_where_each_pixel_is(center: str, axis: int, flip: int) -> None:
    """Where intensity is a world coordinate, it is read back from the affine."""
    affine = turned(10.0, (3.0, 4.0, 5.0), flip, tilt=7.0)
    index = np.stack(np.meshgrid(*map(np.arange, (24, 26, 9)), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    mask = np.zeros((24, 26, 9), bool)
    mask[3:20, 4:24, 1:8] = True
    image = nib.Nifti1Image((500 + world[..., axis]).astype(np.float32), affine)
    config = PreprocessConfig(24, 3.0, z=7.0, slices=3, center=center, scaled=True)
    for one in prepare(image, nib.Nifti1Image(mask.astype(np.uint8), affine), config):
        assert one.affine is not None
        inner = np.argwhere(one.mask)
        inner = inner[np.abs(inner - inner.mean(axis=0)).max(axis=1) < 5]
        pixels = np.column_stack([inner, np.zeros(len(inner)), np.ones(len(inner))])
        expected = 500 + (pixels @ one.affine.T)[:, axis]
        np.testing.assert_allclose(one.image[tuple(inner.T)], expected, atol=0.05)
        sides = np.linalg.norm(one.affine[:3, :3], axis=0)
        np.testing.assert_allclose(sides, [3, 3, 5], rtol=1e-6)


def test_geometry_and_values_survive_a_bids_folder(tmp_path: Path) -> None:
    """Volumes to slices, out and back: each where it was, and equal bit for bit."""
    rng = np.random.default_rng(3)
    rows = []
    for i in range(10):
        brain = np.zeros((20, 22, 7), np.float32)
        brain[4:16, 3:19, 1:6] = rng.uniform(50, 200, (12, 16, 5))
        affine = turned(5.0 * i, (4.0, 4.0, 4.0), 1 if i % 2 else -1)
        save_bids_scan(tmp_path / "study", f"sub-{i}", "ses-1", brain, affine)
        rows.append(f"sub-{i}\t{30 + i}\t{'FM'[i % 2]}\t{'ab'[i // 5]}")
    lines = ["participant_id\tage\tsex\tsite", *rows]
    (tmp_path / "study/participants.tsv").write_text("\n".join(lines) + "\n")
    options = {"size": 32, "slices": 3, "slice_step": 4.0, "z": -8.0}
    study = config(data=str(tmp_path / "study"), options=options)
    export(study, tmp_path / "out")
    dataset = BIDSDataset(tmp_path / "study", **options)
    cohort = dataset.load()
    affines = dataset.geometry(cohort.keys)
    heights = affines[:, 2, 3].reshape(10, 3)
    np.testing.assert_allclose(np.diff(heights, axis=1), 4.0, atol=1e-5)
    table = pd.read_csv(tmp_path / "out/split.tsv", sep="\t", dtype={"slice": int})
    assert "sub-0_ses-1_chunk-2_desc-preproc_T1w.nii.gz" in table["file"][2]
    for row, file in enumerate(table["file"]):
        got = read_slice(tmp_path / "out" / file, (32, 32), affines[row])
        np.testing.assert_array_equal(got, cohort.images[row])
    scores = evaluate(
        tmp_path / "out",
        tmp_path / "run",
        data=str(tmp_path / "study"),
        options=options,
        metrics=["distance_pcc"],
    )
    assert set(scores["label"]) == {"mine"}


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    cohort = ToyDataset(**CROSS_FITTED).load()
    names = ["../../../evil", "/etc/passwd", "..\\up", *[f"p{i}" for i in range(41)]]
    save_npz(cohort.with_covariates(participant_id=names), tmp_path / "odd.npz")
    export(config(data=str(tmp_path / "odd.npz"), options={}), tmp_path / "deep/er/out")
    found = sorted(p.relative_to(tmp_path).parts[:3] for p in tmp_path.rglob("*.nii.gz"))
    assert {*found} == {("deep", "er", "out")} and len(found) == 88
    assert (tmp_path / "deep/er/out/sub-evil/anat/sub-evil_desc-preproc_T1w.nii.gz").is_file()
    twins = cohort.with_covariates(participant_id=["a-b", "ab", *names[2:]])
    save_npz(twins, tmp_path / "twins.npz")
    settings = config(data=str(tmp_path / "twins.npz"), options={})
    with pytest.raises(HarmbenchError, match="two participants become the same BIDS label"):
        export(settings, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_travelling_subjects_are_told_apart_by_site(tmp_path: Path) -> None:
    cohort = ToyDataset(**CROSS_FITTED).load()
    twice = cohort.with_covariates(
        participant_id=[f"p{i // 2}" for i in range(44)], sex="F", age=40.0
    )
    save_npz(twice, tmp_path / "twice.npz")
    data = {"data": str(tmp_path / "twice.npz"), "options": {}}
    export(config(**data), tmp_path / "out")
    assert (tmp_path / "out/sub-p0/ses-siteb/anat").is_dir()
    scores = evaluate(tmp_path / "out", tmp_path / "run", metrics=["distance_pcc"], **data)
    assert scores.set_index("group").loc["all", "value"] == pytest.approx(1.0)


def test_tables_have_no_images_to_export(tmp_path: Path) -> None:
    lines = [f"p{i},{'ab'[i % 2]},{20 + i},F,{i}.5" for i in range(44)]
    (tmp_path / "t.csv").write_text("participant_id,site,age,sex,volume\n" + "\n".join(lines))
    with pytest.raises(HarmbenchError, match="these data are tables, not slices"):
        export(config(data=str(tmp_path / "t.csv"), options={}), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- evaluate ---------------------------------------------------------------------------------


def test_everything_wrong_is_said_at_once(exported: Path, tmp_path: Path) -> None:
    image_of(exported, 1).unlink()
    rewrite(image_of(exported, 2), lambda image: np.where(image > 0.5, np.nan, image))
    rewrite(image_of(exported, 3), lambda image: image[:-1])
    rewrite(image_of(exported, 4), lambda image: image[::-1], turn=-1)
    image_of(exported, 5).write_bytes(b"")
    nib.save(nib.load(image_of(exported, 6)), image_of(exported, 6, ".nii"))
    image_of(exported, 7).write_bytes(image_of(exported, 8).read_bytes()[:90])
    stranger = exported / "sub-99/anat/sub-99_desc-preproc_T1w.nii.gz"
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(image_of(exported, 0).read_bytes())
    with pytest.raises(HarmbenchError) as caught:
        evaluate(exported, tmp_path / "run")
    text = str(caught.value)
    said = {
        1: "there is no image of it",
        2: "NaN or infinite",
        3: r"it has shape \(6, 9, 1\), the exported slice \(7, 9\)",
        4: "its affine is not that of the exported slice",
        5: "cannot be read",
        6: "two images of one slice",
        7: "cannot be read",
    }
    for number, sentence in said.items():
        assert re.search(f"sub-toy{number:04d}.*{sentence}", text), sentence
    assert "7 problems; 1 image is of no scan of these data, such as sub-99" in text
    assert str(tmp_path) not in text.partition("\n")[2]
    assert not (tmp_path / "run").exists(), "a refused run leaves a trace"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_image_without_permission_is_named(exported: Path, tmp_path: Path) -> None:
    image_of(exported, 1).chmod(0)
    with pytest.raises(HarmbenchError, match=r"sub-toy0001.*cannot be read"):
        evaluate(exported, tmp_path / "run")


def test_integers_with_a_slope_are_read_as_what_they_stand_for(
    exported: Path, tmp_path: Path
) -> None:
    for number in range(44):
        image = nib.load(image_of(exported, number))
        scaled = nib.Nifti1Image(image.get_fdata(), image.affine)
        scaled.set_data_dtype(np.int16)
        nib.save(scaled, image_of(exported, number))
    stored = nib.load(image_of(exported, 0))
    assert stored.get_data_dtype() == np.int16 and stored.dataobj.slope < 1e-3
    scores = evaluate(exported, tmp_path / "run", controls=["identity"])
    values = scores[scores["group"] == "all"].set_index("label")["value"]
    assert values["mine"] == pytest.approx(values["identity"], abs=1e-4)


def test_images_of_other_data_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(HarmbenchError, match=r"fingerprint is .* there and .* here") as caught:
        evaluate(exported, tmp_path / "run", options={**CROSS_FITTED, "seed": 1})
    assert "as they were for the export" in str(caught.value)
    with pytest.raises(HarmbenchError, match="data_seed is 0 there and 4 here"):
        evaluate(exported, tmp_path / "run", data_seed=4)
    (exported / "export.json").unlink()
    with pytest.raises(HarmbenchError, match="there is no image of it"):
        evaluate(exported, tmp_path / "run", options={**CROSS_FITTED, "n": 60})
    (exported / "export.json").write_text("{")
    with pytest.raises(HarmbenchError, match="is not JSON"):
        evaluate(exported, tmp_path / "run")


def test_folders_and_names_that_say_nothing_are_refused(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HarmbenchError, match="holds no image at sub-"):
        returned_spec(tmp_path / "empty", "mine")
    with pytest.raises(HarmbenchError, match="there is no folder"):
        returned_spec(tmp_path / "missing", "mine")
    for name in ("", "  ", "a\nb"):
        with pytest.raises(HarmbenchError, match="give a name"):
            returned_spec(exported, name)
    with pytest.raises(HarmbenchError, match="two methods are called 'identity'"):
        evaluate(exported, tmp_path / "run", name="identity")
    run(config("blur"), tmp_path / "run")
    with pytest.raises(HarmbenchError, match="has a method of that name"):
        evaluate(exported, tmp_path / "run", name="blur")
    assert set(evaluate(exported, tmp_path / "run")["label"]) == {"blur", "mine"}


def test_the_fit_part_may_be_left_out_as_a_whole(tmp_path: Path) -> None:
    export(config(options=THREE_PARTS), tmp_path / "out")
    table = pd.read_csv(tmp_path / "out/split.tsv", sep="\t")
    fit = table["file"][table["part"] == "fit"].tolist()
    (tmp_path / "out" / fit[0]).unlink()
    with pytest.raises(HarmbenchError, match=r"one problem.*\n.*\(part fit\)"):
        evaluate(tmp_path / "out", tmp_path / "run", options=THREE_PARTS)
    for file in fit[1:]:
        (tmp_path / "out" / file).unlink()
    scores = evaluate(tmp_path / "out", tmp_path / "run", options=THREE_PARTS)
    assert set(scores["status"]) == {"ok"}
    cohort = ToyDataset(**THREE_PARTS).load()
    method = Returned(**returned_spec(tmp_path / "out", "mine").params)
    part = cohort.subset(make_split(cohort, 0).part == "fit")
    with pytest.raises(ProductUnavailable, match="a part that was not returned"):
        method.harmonize(part, context=ApplyContext())


def test_changed_images_are_scored_anew_and_never_mixed(exported: Path, tmp_path: Path) -> None:
    said = Said()
    first = evaluate(exported, tmp_path / "run", progress=said)
    assert any("equals the exported one" in line for line in said.lines)
    method = Returned(**returned_spec(exported, "mine").params)
    for number in range(44):
        rewrite(image_of(exported, number), lambda image: image * np.float32(3))
    with pytest.raises(HarmbenchError, match="have changed since"):
        method.harmonize(ToyDataset(**CROSS_FITTED).load(), context=ApplyContext())
    second = evaluate(exported, tmp_path / "run", progress=said)
    assert any("3 times as bright" in line for line in said.lines)
    assert len(second) == len(first)
    worse = [rows.set_index("group").loc["all", "value"] for rows in (first, second)]
    assert worse[1] > 3 * worse[0], "intensities were rescaled, or old images scored"


def test_harmonized_files_win_over_the_exported_ones_beside_them(
    exported: Path, tmp_path: Path
) -> None:
    for number in range(44):
        file = image_of(exported, number)
        harmonized = file.with_name(file.name.replace("preproc", "harmonized"))
        harmonized.write_bytes(file.read_bytes())
        rewrite(harmonized, lambda image: image + np.float32(1))
    spec = returned_spec(exported, "mine")
    cohort = ToyDataset(**CROSS_FITTED).load()
    images = Returned(**spec.params).harmonize(cohort, context=ApplyContext())
    np.testing.assert_array_equal(images, cohort.images + np.float32(1))
    harmonized.unlink()
    with pytest.raises(HarmbenchError, match=r"sub-toy0043.*there is no image of it"):
        evaluate(exported, tmp_path / "run")


# -- the command line -------------------------------------------------------------------------


def test_the_guide_works_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs/external.md").read_text()
    program = next(b for b in re.findall("```python\n(.*?)```", guide, re.DOTALL) if "nib" in b)
    commands = [
        line
        for block in re.findall("```sh\n(.*?)```", guide, re.DOTALL)
        for line in block.splitlines()
        if line.startswith(("harmbench", "python"))
    ]
    assert len(commands) == 5
    monkeypatch.chdir(tmp_path)
    Path("centering.py").write_text(program)
    Path("study.toml").write_text(
        f'data = "{TOY}"\nthreads = 1\nmetrics = ["truth_mae"]\n'
        "[data_options]\nn = 44\nsites = 2\nshape = [7, 9]\n"
    )
    # What a report looks like is tested elsewhere, and takes longer than all the rest.
    monkeypatch.setattr("reports.build", lambda folder: folder / "report.html")
    monkeypatch.setattr("reports.terminal_table", lambda folder: "")
    for command in commands:
        words = re.sub("(--data )?phantom --preset smoke", "--config study.toml", command)
        program_name, *arguments = [w.strip('"') for w in re.findall('"[^"]*"|[^ ]+', words)]
        if program_name == "python":
            subprocess.run([sys.executable, *arguments], check=True)
        else:
            quiet = [*arguments, "-q"]
            result = CliRunner().invoke(app, quiet, catch_exceptions=False)
            assert result.exit_code == 0, result.output
    scores = pd.read_csv("results/phantom-smoke/scores.csv")
    values = scores[scores["group"] == "all"].set_index("label")["value"]
    assert values["my method"] < values["identity"]
    assert values["combat, from files"] < values["identity"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export"], "give the new folder to write to: --out"),
        (["export", "--out", "x"], "name the data"),
        (["harmonize", "--out", "x"], "give --method NAME"),
        (["harmonize", "--method", "combta", "--out", "x"], "did you mean 'combat'"),
        (["harmonize", "--method", "combat", "--out", "x", "--weights", "y"], "there is no folder"),
        (["evaluate"], "give the folder with the harmonized images"),
    ],
)
def test_incomplete_commands_say_what_is_missing(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, HarmbenchError)
    assert sentence in str(result.exception)
