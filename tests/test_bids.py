from __future__ import annotations

import gzip
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from harmbench.cohort import Cohort
from harmbench.data.bids import BIDSDataset
from harmbench.data.bids_write import write_bids
from harmbench.data.splits import make_split
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress

TABLE = """participant_id\tage\tsex\tsite\tscanner
sub-01\t34.5\tF\tnorth\tA
sub-02\tn/a\tMale\tnorth\tA
sub-03\t89+\tf\tsouth\tB
sub-04\t51\tn/a\tsouth\tB
"""


def scan_data(seed: int, shape: tuple[int, ...] = (40, 44, 1)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    data = np.zeros(shape, np.float32)
    data[8:32, 6:38] = rng.uniform(50, 200, data[8:32, 6:38].shape)
    return data


def save_scan(root: Path, subject: str, session: str = "", data: np.ndarray | None = None) -> Path:
    stem = "_".join(filter(None, (subject, session)))
    file = root / subject / session / "anat" / f"{stem}_T1w.nii.gz"
    file.parent.mkdir(parents=True, exist_ok=True)
    data = scan_data(sum(stem.encode())) if data is None else data
    nib.save(nib.Nifti1Image(data, np.diag([4.0, 4.0, 4.0, 1.0])), file)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    for subject in ("sub-01", "sub-02", "sub-03", "sub-04"):
        save_scan(root, subject)
    (root / "participants.tsv").write_text(TABLE)
    return root


def load(folder: Path, **knobs) -> Cohort:
    return BIDSDataset(folder, **({"size": 32} | knobs)).load()


def test_rows_ages_sexes_and_other_columns(folder):
    cohort = load(folder)
    table = cohort.participants
    assert list(table["participant_id"]) == ["sub-01", "sub-02", "sub-03", "sub-04"]
    assert list(table["site"]) == ["north", "north", "south", "south"]
    np.testing.assert_array_equal(table["age"], [34.5, np.nan, 89, 51])
    assert list(table["sex"][:3]) == ["F", "M", "F"] and pd.isna(table["sex"][3])
    assert list(table["scanner"]) == list("AABB")
    assert (table["session_id"] == "").all() and (table["slice"] == 0).all()
    assert cohort.images.shape == (4, 32, 32) and cohort.images.max() <= 1
    assert cohort.mask.mean() == pytest.approx(96 * 128 / 220**2, rel=0.05)


def test_what_is_missing_is_noted(folder):
    with (folder / "participants.tsv").open("a") as table:
        table.write("sub-05\t20\tF\tsouth\tB\n")
    dataset = BIDSDataset(folder, size=32)
    assert len(dataset.load()) == 4
    assert dataset.notes == [
        "sub-05 left out: in participants.tsv, but without an image",
        "age is missing for 1 of 4 scans",
        "sex is missing for 1 of 4 scans",
    ]


def test_columns_can_be_named_and_ages_may_be_absent(folder):
    dataset = BIDSDataset(folder, size=32, site_column="scanner", age_column="years")
    cohort = dataset.load()
    assert cohort.sites == ["A", "B"]
    assert np.isnan(cohort.column("age")).all()
    assert "age is missing for 4 of 4 scans" in dataset.notes


def test_sessions_overrule_participants_and_are_repeats(folder):
    save_scan(folder, "sub-01", "ses-a")
    save_scan(folder, "sub-01", "ses-b")
    shutil.rmtree(folder / "sub-01" / "anat")
    (folder / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\tage\tsite\nses-a\t35\tn/a\nses-b\t36\tsouth\n"
    )
    dataset = BIDSDataset(folder, size=32)
    cohort = dataset.load()
    assert [key[:3] for key in cohort.keys[:3]] == [
        ("sub-01", "north", "ses-a"),
        ("sub-01", "south", "ses-b"),
        ("sub-02", "north", ""),
    ]
    assert list(cohort.column("age")[:2]) == [35, 36]
    assert dataset.repeats() == [(cohort.keys[0], cohort.keys[1])]


def test_one_of_several_images_is_chosen_by_name(folder):
    first = folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    other = first.with_name("sub-01_acq-low_T1w.nii.gz")
    shutil.copy(first, other)
    dataset = BIDSDataset(folder, size=32)
    dataset.load()
    assert "sub-01_T1w.nii.gz is used, sub-01_acq-low_T1w.nii.gz left out" in dataset.notes[0]
    with pytest.raises(HarmbenchError, match="with 'acq-high' in its name"):
        load(folder, contains="acq-high")


def test_masks_are_found_beside_and_in_derivatives(folder):
    whole = load(folder).mask.sum(axis=(1, 2))
    mask = np.zeros((40, 44, 1), np.uint8)
    mask[12:24, 10:30] = 1
    image = nib.Nifti1Image(mask, np.diag([4.0, 4.0, 4.0, 1.0]))
    nib.save(image, folder / "sub-01" / "anat" / "sub-01_desc-brain_mask.nii.gz")
    place = folder / "derivatives" / "strip" / "sub-02" / "anat"
    place.mkdir(parents=True)
    nib.save(image, place / "sub-02_desc-brain_mask.nii")
    small = load(folder).mask.sum(axis=(1, 2))
    assert (small[:2] < 0.5 * whole[:2]).all() and (small[2:] == whole[2:]).all()


def test_volumes_and_slices_may_be_mixed(folder):
    flat = scan_data(5)
    volume = flat * np.array([0.0, 1.0, 0.0], np.float32)
    one = load(folder_with(folder, flat)).images[2]
    assert np.array_equal(load(folder_with(folder, volume)).images[2], one)


def folder_with(folder: Path, data: np.ndarray) -> Path:
    save_scan(folder, "sub-03", data=data)
    return folder


def test_fingerprint_names_bytes_and_settings_not_the_place(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    first = BIDSDataset(folder).fingerprint
    assert BIDSDataset(tmp_path / "elsewhere").fingerprint == first
    others = {BIDSDataset(folder, size=48).fingerprint, BIDSDataset(folder, z=3.0).fingerprint}
    (folder / "participants.tsv").write_text(TABLE.replace("34.5", "34.6"))
    others.add(BIDSDataset(folder).fingerprint)
    save_scan(folder, "sub-04", data=scan_data(77))
    others.add(BIDSDataset(folder).fingerprint)
    assert len(others | {first}) == 5


def test_progress_counts_every_image(folder):
    seen: list[str] = []

    class Listening(Progress):
        @contextmanager
        def task(self, description, total):
            seen.append(f"{description}: {total}")
            yield self

        def advance(self, amount=1.0, note=""):
            seen.append(note)

    BIDSDataset(folder, size=32).load(Listening())
    assert seen == ["reading images: 4", "sub-01", "sub-02", "sub-03", "sub-04"]


def no_site(root: Path) -> None:
    (root / "participants.tsv").write_text(TABLE.replace("site", "hospital"))


def replace(old: str, new: str):
    return lambda root: (root / "participants.tsv").write_text(TABLE.replace(old, new))


def zero_bytes(root: Path) -> None:
    (root / "sub-02/anat/sub-02_T1w.nii.gz").write_bytes(b"")


def truncated(root: Path) -> None:
    file = root / "sub-02/anat/sub-02_T1w.nii.gz"
    file.write_bytes(file.read_bytes()[:900])


def truncated_inside(root: Path) -> None:
    file = root / "sub-02/anat/sub-02_T1w.nii.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:900]))


def not_an_image(root: Path) -> None:
    (root / "sub-02/anat/sub-02_T1w.nii.gz").write_text("<html>not found</html>")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shutil.rmtree, "there is no folder .*study"),
        (lambda root: [shutil.rmtree(d) for d in root.glob("sub-*")], "study holds no image at"),
        (lambda root: (root / "participants.tsv").unlink(), "study has no participants.tsv"),
        (no_site, "no column 'site'.*Columns: .*hospital"),
        (replace("sub-02", "sub-20"), "no row for sub-02"),
        (replace("sub-02", "sub-01"), "names sub-01 more than once"),
        (replace("34.5", "old"), "sub-01: age 'old'"),
        (replace("34.5", "1250"), "sub-01: age '1250'"),
        (replace("Male", "1"), "sub-02: sex '1'"),
        (replace("n/a\tMale\tnorth", "n/a\tMale\tn/a"), "sub-02: the site is missing"),
        (replace("north", "south"), r"one site \(south\)"),
        (lambda root: (root / "participants.tsv").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
        (lambda root: (root / "dataset_description.json").write_text("{"), "not JSON"),
        (zero_bytes, "sub-02_T1w.nii.gz cannot be read"),
        (truncated, "sub-02_T1w.nii.gz cannot be read"),
        (truncated_inside, "sub-02_T1w.nii.gz cannot be read"),
        (not_an_image, "sub-02_T1w.nii.gz cannot be read"),
        (
            lambda root: save_scan(root, "sub-02", data=np.ones((7, 8, 9), np.float32)),
            "sub-02_T1w.nii.gz: it is constant",
        ),
        (
            lambda root: save_scan(root, "sub-02", data=scan_data(0) * np.float32(np.nan)),
            "sub-02_T1w.nii.gz: .* NaN",
        ),
    ],
)
def test_every_damage_is_named(folder, damage, sentence):
    damage(folder)
    with pytest.raises(HarmbenchError, match=sentence):
        load(folder)


# ---- writing and reading back


def make_cohort(shape: tuple[int, int] = (9, 9)) -> Cohort:
    """Two subjects of one scan each, one travelling, one scanned twice at a site."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "participant_id": ["sub-01", "sub-02", "sub-03", "sub-03", "sub-04", "sub-04"],
            "session_id": ["", "ses-1", "", "", "ses-1", "ses-2"],
            "slice": 0,
            "site": ["s1", "s2", "s1", "s2", "s2", "s2"],
            "age": [34.123456789, np.nan, 50.5, 50.5, 20.0, 22.0],
            "sex": ["F", "M", np.nan, np.nan, "F", "F"],
            "scanner": ["a", "b", "a", "b", "b", "b"],
        }
    )
    images = rng.normal(0.5, 0.4, (6, *shape)).astype(np.float32)  # some below 0, some above 1
    return Cohort(images, table, rng.random(images.shape) > 0.4)


def test_what_is_written_is_read_back(tmp_path):
    cohort = make_cohort()
    write_bids(cohort, tmp_path / "out", spacing_mm=3.3, name="Six slices")
    dataset = BIDSDataset(tmp_path / "out", size=9)
    back = dataset.load()
    np.testing.assert_allclose(back.images, cohort.images, atol=1e-6)
    assert np.array_equal(back.mask, cohort.mask)
    expected = cohort.participants.assign(
        session_id=["", "ses-1", "ses-s1", "ses-s2", "ses-1", "ses-2"]
    )
    pd.testing.assert_frame_equal(
        back.participants[list(expected)], expected, check_dtype=False, check_exact=False
    )
    assert dataset.info.label == "Six slices"
    assert len(dataset.repeats()) == 2


def test_final_images_on_another_grid_keep_their_scale_and_field_of_view(tmp_path):
    cohort = make_cohort()
    flat = cohort.with_images(np.full(cohort.images.shape, 0.25) + np.eye(9) * 1e-3)
    write_bids(flat, tmp_path / "out", spacing_mm=3.0, name="x")
    coarse = load(tmp_path / "out", size=3).images
    np.testing.assert_allclose(coarse, 0.25, atol=2e-3)


def test_writing_fills_no_folder_that_holds_something(tmp_path):
    (tmp_path / "out").mkdir()
    write_bids(make_cohort(), tmp_path / "out", 3.0, "x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(HarmbenchError, match="not an empty folder"):
        write_bids(make_cohort(), tmp_path / "out", 3.0, "x")
    assert sorted(tmp_path.rglob("*")) == before
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["GeneratedBy"]


def test_a_failed_write_leaves_nothing(tmp_path):
    cohort = make_cohort()
    cohort.participants.loc[5, "session_id"] = "ses-1"
    with pytest.raises(HarmbenchError, match="sub-04 ses-1 would be written twice"):
        write_bids(cohort, tmp_path / "out", 3.0, "x")
    same = cohort.with_covariates(participant_id=["1", "-1", "2", "3", "4", "5"])
    with pytest.raises(HarmbenchError, match="same BIDS label"):
        write_bids(same, tmp_path / "out", 3.0, "x")
    assert list(tmp_path.iterdir()) == []


def test_a_written_file_opens_as_ras_with_its_pixel_size(tmp_path):
    write_bids(make_cohort((7, 8)), tmp_path / "out", spacing_mm=3.5, name="x")
    image = nib.load(tmp_path / "out/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    assert image.shape == (7, 8, 1) and nib.aff2axcodes(image.affine) == ("R", "A", "S")
    np.testing.assert_allclose(image.header.get_zooms(), 3.5)
    np.testing.assert_allclose(image.affine @ [3, 3.5, 0, 1], [0, 0, 0, 1], atol=1e-6)


def test_real_slices_where_they_are():
    place = os.environ.get("HARMBENCH_IXI", "")
    if not place:
        pytest.skip("HARMBENCH_IXI does not name a folder of IXI slices")
    cohort = BIDSDataset(place).load()
    assert cohort.images.shape == (75, 64, 64) and cohort.sites == ["Guys", "HH", "IOP"]
    centers = [np.argwhere(own).mean(axis=0) for own in cohort.mask]
    assert np.abs(np.array(centers) - 31.5).max() < 0.5
    assert make_split(cohort, 0).cross_fitting
