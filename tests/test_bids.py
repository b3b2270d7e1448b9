from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from support import made_up_scan as scan_data
from support import save_bids_scan as save_scan

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.dataset import by_kind
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


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "study"
    for subject in ("sub-01", "sub-02", "sub-03", "sub-04"):
        save_scan(root, subject)
    (root / "participants.tsv").write_text(TABLE)
    return root


def load(folder: Path, **knobs) -> Cohort:
    return BIDSDataset(folder, **({"size": 32} | knobs)).load()


def texts(dataset: BIDSDataset, *kinds: str) -> list[str]:
    """Return the sentences on how the data were read, of all kinds or of these."""
    said = by_kind(dataset.notes)._asdict()
    return [text for kind in kinds or said for text in said[kind]]


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
    assert by_kind(dataset.notes)._asdict() == {
        "notes": ["age is missing for 1 of 4 scans", "sex is missing for 1 of 4 scans"],
        "set_aside": ["sub-05: a row in participants.tsv, but no image"],
        "read": [
            "images *_T1w.nii[.gz]: 4 scans of 4 participants, none with a mask",
            "participants.tsv: 4 of 5 rows, other columns kept: scanner",
            "site: column 'site' of participants.tsv, 2 sites",
            "age: column 'age' of participants.tsv, read as years, 34.5 to 89 years",
            "sex: column 'sex' of participants.tsv",
        ],
    }


def test_columns_can_be_named_and_ages_may_be_absent(folder):
    dataset = BIDSDataset(folder, size=32, site_column="scanner", age_column="")
    cohort = dataset.load()
    assert cohort.sites == ["A", "B"]
    assert np.isnan(cohort.column("age")).all()
    assert "age is missing for 4 of 4 scans" in texts(dataset)
    (folder / "participants.tsv").write_text(TABLE.replace("age", "weight"))
    assert np.isnan(load(folder).column("age")).all()
    with pytest.raises(HarmbenchError, match=r"no column 'Age'.*--age-column"):
        load(folder, age_column="Age")


def test_sessions_overrule_participants(folder):
    save_scan(folder, "sub-01", "ses-a")
    save_scan(folder, "sub-01", "ses-b")
    shutil.rmtree(folder / "sub-01" / "anat")
    (folder / "sub-01" / "sub-01_sessions.tsv").write_text(
        "session_id\tage\tsite\nses-a\t35\tn/a\nses-b\t36\tsouth\n"
    )
    cohort = load(folder)
    assert [key[:3] for key in cohort.keys[:3]] == [
        ("sub-01", "north", "ses-a"),
        ("sub-01", "south", "ses-b"),
        ("sub-02", "north", ""),
    ]
    assert list(cohort.column("age")[:2]) == [35, 36]


def test_one_of_several_images_is_chosen_by_name(folder):
    first = folder / "sub-01" / "anat" / "sub-01_T1w.nii.gz"
    other = first.with_name("sub-01_acq-low_T1w.nii.gz")
    shutil.copy(first, other)
    dataset = BIDSDataset(folder, size=32)
    dataset.load()
    assert "sub-01_acq-low_T1w.nii.gz: sub-01_T1w.nii.gz is used" in texts(dataset, "set_aside")[0]
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
        (no_site, "no column 'site'; perhaps --site-column \"hospital\""),
        (replace("sub-02", "sub-20"), "no row for sub-02"),
        (replace("sub-02", "sub-01"), "names sub-01 more than once"),
        (replace("34.5", "old"), "sub-01: age 'old'"),
        (replace("34.5", "1250"), "sub-01: age '1250'"),
        (replace("Male", "1"), "column 'sex' holds the numbers 1.*--sex-codes"),
        (replace("Male", "boy"), "line 3, sub-02: sex 'boy'"),
        (replace("n/a\tMale\tnorth", "n/a\tMale\tn/a"), "sub-02: the site is missing"),
        (replace("north", "south"), r"one site \(south\)"),
        (lambda root: (root / "participants.tsv").write_bytes(b"\xff\xfe\x00"), "UTF-8"),
        (lambda root: (root / "dataset_description.json").write_text("{"), "not JSON"),
        (zero_bytes, "sub-02_T1w.nii.gz: it cannot be read"),
        (truncated, "sub-02_T1w.nii.gz: it cannot be read"),
        (truncated_inside, "sub-02_T1w.nii.gz: it cannot be read"),
        (not_an_image, "sub-02_T1w.nii.gz: it cannot be read"),
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


def test_all_problems_are_said_at_once_or_left_out(folder):
    for subject in ("sub-05", "sub-06"):
        save_scan(folder, subject)
    text = TABLE.replace("34.5", "old") + "sub-06\t40\tM\tnorth\tB\n"
    (folder / "participants.tsv").write_text(text)
    with pytest.raises(HarmbenchError) as error:
        load(folder)
    said = str(error.value)
    assert "2 problems" in said and "age 'old'" in said and "no row for sub-05" in said
    assert "\n(--skip-bad goes on without these scans)\n(no image was read yet" in said
    truncated(folder)
    dataset = BIDSDataset(folder, size=32, skip_bad=True)
    assert list(dataset.load().column("participant_id")) == ["sub-03", "sub-04", "sub-06"]
    left_out = texts(dataset, "set_aside")
    assert len(left_out) == 3 and "sub-02/anat/sub-02_T1w.nii.gz: it cannot be read" in left_out[2]
    assert str(folder.parent) not in " ".join(texts(dataset))  # they are shown in reports


def test_what_is_left_out_must_leave_two_sites(folder):
    for subject in ("sub-01", "sub-02"):
        (folder / subject / "anat" / f"{subject}_T1w.nii.gz").write_bytes(b"")
    with pytest.raises(HarmbenchError, match=r"one site \(south\)"):
        load(folder, skip_bad=True)


# ---- tables as they come


def test_site_in_the_session_or_in_scans(folder):
    for session in ("ses-a", "ses-b"):
        save_scan(folder, "sub-01", session)
    shutil.rmtree(folder / "sub-01" / "anat")
    (folder / "sub-01/ses-b/sub-01_ses-b_scans.tsv").write_text(
        "filename\tsite\nanat/sub-01_ses-b_T1w.nii.gz\tsouth\nanat/other.nii.gz\twest\n"
    )
    cohort = load(folder)
    assert list(cohort.column("site")[:2]) == ["north", "south"]
    for subject in ("sub-02", "sub-03", "sub-04"):
        shutil.move(folder / subject / "anat", folder / subject / "ses-a" / "anat")
    assert load(folder, site_column="session_id").sites == ["ses-a", "ses-b"]


def test_participants_may_have_a_row_for_each_session(folder):
    for session in ("ses-1", "ses-2"):
        save_scan(folder, "sub-01", session)
    shutil.rmtree(folder / "sub-01" / "anat")
    rows = "participant_id\tsession_id\tage\tsite\n1\t1\t30\tx\n1\tses-2\t31\ty\n".replace(
        "\n1\t", "\n01\t"
    )
    rest = "".join(f"sub-0{k}\t\t40\ty\n" for k in (2, 3, 4))
    (folder / "participants.tsv").write_text(rows + rest)
    cohort = load(folder)
    assert list(cohort.column("age")) == [30, 31, 40, 40, 40]
    assert list(cohort.column("site")[:2]) == ["x", "y"]
    (folder / "participants.tsv").write_text(rows + rest + "sub-01\tses-1\t30\ty\n")
    with pytest.raises(HarmbenchError, match=r"sub-01 ses-1 more than once \(.* line 2 and line 7"):
        load(folder)


def test_ixi_like_columns_by_flags_and_codes(folder):
    header = "participant_id\tAge\tSEX_ID (1=m, 2=f)\tsite \n"
    rows = [("01", "34.5", "1", "1"), ("02", "-", "2", "1"), ("03", "89+", "2", "2"),
            ("04", "-9999", "", "2")]  # fmt: skip
    text = header + "".join("\t".join(row) + "\n" for row in rows)
    (folder / "participants.tsv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    with pytest.raises(HarmbenchError) as error:
        load(folder)
    assert 'perhaps --age-column "Age"' in str(error.value)
    flags = {"age_column": "Age", "sex_column": "SEX_ID (1=m, 2=f)"}
    with pytest.raises(HarmbenchError, match='its name suggests --sex-codes "1=M,2=F"'):
        load(folder, **flags)
    cohort = load(folder, **flags, sex_codes="1=M,2=F")
    np.testing.assert_array_equal(cohort.column("age"), [34.5, np.nan, 89, np.nan])
    assert list(cohort.column("sex")[:3]) == ["M", "F", "F"] and pd.isna(cohort.column("sex")[3])
    assert cohort.sites == ["1", "2"]
    prints = {BIDSDataset(folder, **flags, sex_codes=c).fingerprint for c in ("1=M,2=F", "1=F,2=M")}
    assert len(prints) == 2


def test_levels_in_participants_json_explain_codes(folder):
    (folder / "participants.tsv").write_text(
        TABLE.replace("\tF\t", "\t2\t").replace("Male", "1").replace("\tf\t", "\t2\t")
    )
    levels = {"sex": {"Levels": {"1": "male", "2": {"Description": "Female participant"}}}}
    (folder / "participants.json").write_text(json.dumps(levels))
    assert list(load(folder).column("sex")[:3]) == ["F", "M", "F"]


def test_a_second_header_is_refused_but_a_wrong_age_is_not_one(folder):
    lines = TABLE.splitlines()
    lines.insert(1, "Subject\tyears\tM/F\thospital\tmachine")
    (folder / "participants.tsv").write_text("\n".join(lines).replace("n/a\tMale", "31\tMale"))
    with pytest.raises(HarmbenchError, match=r"line 2 looks like a second header \('years'"):
        load(folder)


def test_csv_with_quotes_and_semicolons(folder):
    (folder / "participants.tsv").unlink()
    text = TABLE.replace("\t", ";").replace(";B", ';"B; ""the big one"""')
    (folder / "participants.csv").write_text(text)
    table = load(folder).participants
    assert list(table["scanner"]) == ["A", "A", 'B; "the big one"', 'B; "the big one"']


def test_sites_that_differ_in_case_are_noted(folder):
    (folder / "participants.tsv").write_text(TABLE.replace("Male\tnorth", "Male\tNorth"))
    dataset = BIDSDataset(folder, size=32)
    assert dataset.load().sites == ["North", "north", "south"]
    assert any("'North' and 'north' differ in case" in note for note in texts(dataset))


# ---- images as they come


def test_derivatives_without_a_table_use_that_of_their_source(folder):
    place = folder / "derivatives" / "clean"
    for subject in ("sub-01", "sub-02", "sub-03", "sub-04"):
        (place / subject).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / subject, place / subject)
    cohort = load(place)
    assert cohort.sites == ["north", "south"]
    with pytest.raises(HarmbenchError, match=r"one of its derivatives as the folder: .*clean"):
        load(folder)


def test_runs_are_ordered_by_number(folder):
    (folder / "sub-01/anat/sub-01_T1w.nii.gz").unlink()
    for run in (10, 2):
        save_scan(folder, "sub-01", entity=f"run-{run}", ending=".nii")
    dataset = BIDSDataset(folder, size=32)
    dataset.load()
    assert "sub-01_run-10_T1w.nii: sub-01_run-2_T1w.nii is used" in texts(dataset, "set_aside")[0]


def test_slices_of_a_volume_stay_together_and_apart_in_mm(folder):
    for subject in ("sub-01", "sub-02", "sub-03", "sub-04"):
        thick = 2.0 if subject < "sub-03" else 4.0
        planes = np.arange(0, 60, thick)
        data = scan_data(3) * (1 + np.cos(planes / 20))[None, None, :]
        save_scan(folder, subject, data=data, affine=np.diag([4.0, 4.0, thick, 1.0]))
    cohort = load(folder, slices=3, slice_step=8.0, z=24.0)
    assert len(cohort) == 12 and list(cohort.column("slice")[:4]) == [0, 1, 2, 0]
    np.testing.assert_allclose(cohort.images[:3], cohort.images[6:9], atol=1e-5)
    with pytest.raises(
        HarmbenchError, match="planes are 4 mm apart, too far for slices every 1 mm"
    ):
        load(folder, slices=3, slice_step=1.0)
    with pytest.raises(HarmbenchError, match=r"slices 2 must be odd"):
        load(folder, slices=2)
    save_scan(folder, "sub-01")
    with pytest.raises(HarmbenchError, match=r"sub-01_T1w.nii.gz: it is a single slice, but 3"):
        load(folder, slices=3)


def test_slices_never_split_a_subject(tmp_path):
    rows = ["participant_id\tage\tsex\tsite"]
    for k in range(16):
        volume = scan_data(k) * np.ones(5, np.float32)
        save_scan(tmp_path, f"sub-{k:02d}", data=volume)
        rows.append(f"sub-{k:02d}\t{20 + k}\tF\t{'ab'[k % 2]}")
    (tmp_path / "participants.tsv").write_text("\n".join(rows))
    cohort = BIDSDataset(tmp_path, size=16, slices=3, slice_step=4.0, z=8.0).load()
    split = make_split(cohort, 0)
    held = cohort.participants.assign(part=split.part)
    assert len(cohort) == 48 and set(held["part"]) == set("12345")
    assert (held.groupby("participant_id")["part"].nunique() == 1).all()


def damaged_header(root: Path, **fields: object) -> None:
    """Write a header of these fields before the bytes of a small compressed image."""
    file = root / "sub-02/anat/sub-02_T1w.nii.gz"
    raw = bytearray(gzip.decompress(file.read_bytes()))
    header = nib.Nifti1Header.from_fileobj(io.BytesIO(bytes(raw)), check=False)
    for name, value in fields.items():
        header[name] = value
    file.write_bytes(gzip.compress(header.binaryblock + bytes(raw[348:])))


def link_to_nothing(root: Path) -> None:
    file = root / "sub-02/anat/sub-02_T1w.nii.gz"
    file.unlink()
    file.symlink_to("../../.git/annex/objects/gone")


def a_pipe(root: Path) -> None:
    file = root / "sub-02/anat/sub-02_T1w.nii.gz"
    file.unlink()
    os.mkfifo(file)


def not_compressed(root: Path) -> None:
    file = root / "sub-02/anat/sub-02_T1w.nii.gz"
    file.write_bytes(gzip.decompress(file.read_bytes()))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda root: damaged_header(root, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "32767 vox"),
        (lambda root: damaged_header(root, dim=[3, 40, 0, 1, 1, 1, 1, 1]), "40 x 0 x 1 voxels"),
        (lambda root: damaged_header(root, dim=[4, 40, 44, 1, 200, 1, 1, 1]), "cannot be read"),
        (lambda root: damaged_header(root, vox_offset=1e9), "begin at byte 1000000000"),
        (lambda root: damaged_header(root, srow_x=[0.004, 0, 0, 0], srow_y=[0, 0.004, 0, 0],
                                     srow_z=[0, 0, 0.004, 0]), "voxels of 0.004"),
        (lambda root: damaged_header(root, srow_x=[np.nan] * 4), "no usable affine"),
        (lambda root: damaged_header(root, scl_slope=1e38), "infinite"),
        (lambda root: save_scan(root, "sub-02", data=np.zeros((7, 8, 9, 2), np.float32)),
         "a series of 2 volumes"),
        (lambda root: save_scan(root, "sub-02", data=scan_data(1).astype(np.complex64)),
         "complex64, not real numbers"),
        (link_to_nothing, "a link to nothing.*datalad get"),
        (a_pipe, "it is not a file"),
        (not_compressed, "not compressed although"),
    ],
)  # fmt: skip
def test_hostile_and_broken_files_are_named(folder, damage, sentence):
    damage(folder)
    dataset = BIDSDataset(folder, size=32)
    assert dataset.fingerprint
    with pytest.raises(HarmbenchError, match=f"sub-02_T1w.nii.gz: .*{sentence}"):
        dataset.load()


def test_files_and_folders_without_permission_are_named(folder, monkeypatch):
    opened = Path.open

    def forbidden(file: Path, *args, **kwargs):
        if file.name == "sub-02_T1w.nii.gz":
            raise PermissionError(13, "Permission denied", str(file))
        return opened(file, *args, **kwargs)

    monkeypatch.setattr(Path, "open", forbidden)
    assert len(BIDSDataset(folder).fingerprint) == 64
    with pytest.raises(HarmbenchError, match=r"sub-02_T1w.nii.gz: .*Permission denied.*permission"):
        load(folder)
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).name != "sub-03")
    with pytest.raises(HarmbenchError, match=r"sub-03 cannot be opened"):
        load(folder)


def test_names_never_lead_out_of_the_folder(folder):
    outside = folder.parent / "sub-x_sessions.tsv"
    outside.write_text("session_id\tage\n")
    with (folder / "participants.tsv").open("a") as table:
        table.write("sub-../../etc/passwd\t20\tF\tsouth\tB\n")
        table.write("sub-\x1b[31mred\t20\tF\tsouth\tB\n")
    dataset = BIDSDataset(folder, size=32)
    assert len(dataset.load()) == 4
    assert "sub-../../etc/passwd" in texts(dataset, "set_aside")[0]


@pytest.mark.parametrize(
    "data",
    [
        scan_data(1) * 5e3,
        (scan_data(1)).astype(np.uint8),
        np.where(scan_data(1) == 0, np.nan, scan_data(1)),
        scan_data(1)[..., None, None],
        scan_data(1)[..., 0],
        np.moveaxis(scan_data(1), 2, 0).astype(np.float64),
    ],
    ids=["1e6", "uint8", "NaN around", "5D of one", "2D", "normal first"],
)
def test_images_of_any_kind_give_the_same(folder, data):
    whole = np.round(scan_data(1)) if data.dtype == np.uint8 else scan_data(1)
    save_scan(folder, "sub-02", data=whole)
    expected = load(folder).images[1]
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    save_scan(folder, "sub-02", data=data, affine=affine)
    atol = 0.01 if data.dtype == np.uint8 else 1e-5
    dataset = BIDSDataset(folder, size=32)
    np.testing.assert_allclose(dataset.load().images[1], expected, atol=atol)
    said = any("NaN around the brain is read as 0 in sub-02" in note
               for note in texts(dataset))  # fmt: skip
    assert said == bool(np.isnan(data).any())


def test_oblique_volumes_are_read_along_their_own_planes(folder):
    angle = np.radians(20)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    volume = scan_data(1) * np.ones(5, np.float32)
    straight = np.diag([4.0, 4.0, 4.0, 1.0])
    save_scan(folder, "sub-02", data=volume, affine=straight)
    expected = load(folder).images[1]
    save_scan(folder, "sub-02", data=volume, affine=turn @ straight)
    dataset = BIDSDataset(folder, size=32)
    np.testing.assert_allclose(dataset.load().images[1], expected, atol=1e-5)
    facts = dict(dataset.survey().facts)
    assert facts[("sub-02", "")].orientation == "RAS, oblique by 20°"
    assert facts[("sub-01", "")].shape == "40 x 44 x 1"


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
