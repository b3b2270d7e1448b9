"""Heights of slices, spaces, and links in BIDS folders."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from support import save_bids_scan
from typer.testing import CliRunner

from harmbench.cli.app import app
from harmbench.data.bids import BIDSDataset
from harmbench.data.bids_layout import home
from harmbench.data.planes import DEPTH, canonical, select_planes


def head(voxel=(2.0, 2.0, 2.0), cut=0.0, scale=1.0, neck=False):
    """Return an ellipsoid 160 mm high whose top is at z = +80 mm, cut off below `cut` of it."""
    low = -80 + cut * 160
    shape = [int(200 / voxel[0]), int(220 / voxel[1]), int((95 - low) / voxel[2])]
    affine = np.diag([*voxel, 1.0])
    affine[:3, 3] = [-100, -110, low]
    grids = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    x, y, z = (affine[i, i] * grids[i] + affine[i, 3] for i in range(3))
    inside = (x / 65) ** 2 + (y / 85) ** 2 + (z / 80) ** 2 < scale**2
    if neck:
        inside |= (x**2 + y**2 < 50**2) & (z < 0)
    return nib.Nifti1Image((inside * (1 + z / 500)).astype(np.float32), affine)


def height(image):
    data, affine = canonical(image)
    (plane,) = select_planes(data, affine, None, np.zeros(data.shape, bool), (None, 1, 5.0))
    middle = (np.array(plane.image.shape) - 1) / 2
    return float((plane.affine @ [*middle, 0, 1])[2])


WHOLE = 80 - DEPTH * np.sqrt(65 * 85)


@pytest.mark.parametrize(
    "look",
    [{}, {"voxel": (1.0, 1.0, 1.0)}, {"voxel": (1.0, 2.0, 4.0)}, {"cut": 0.2}, {"cut": 0.4},
     {"neck": True}],
    ids=str,
)  # fmt: skip
def test_the_height_is_one_of_the_head_whatever_is_scanned(look):
    # The very top of an ellipsoid, under a tenth of the largest section, does not count.
    assert height(head(**look)) == pytest.approx(WHOLE - 4, abs=4)


def test_small_heads_are_cut_at_their_own_height():
    small = height(head(scale=0.8))
    assert small == pytest.approx(0.8 * height(head()), abs=4)


@pytest.fixture
def study(tmp_path):
    """Six people at two sites, below a data set of their own."""
    root = tmp_path / "project" / "rawdata"
    people = [f"sub-{i:02d}" for i in range(12)]
    for person in people:
        save_bids_scan(root, person)
    pd.DataFrame(
        {
            "participant_id": people,
            "age": np.arange(20, 32),
            "sex": ["F", "M"] * 6,
            "site": ["a"] * 6 + ["b"] * 6,
        }
    ).to_csv(root / "participants.tsv", sep="\t", index=False)
    return root


def move_to_annex(study):
    """Put the content of all images where git-annex keeps it, above the folder."""
    annex = study.parent / ".git" / "annex" / "objects"
    annex.mkdir(parents=True)
    for file in sorted(study.glob("sub-*/anat/*.nii.gz")):
        target = annex / file.name
        file.rename(target)
        file.symlink_to(target)


def test_links_within_the_enclosing_data_set_are_followed(study):
    move_to_annex(study)
    assert home(study) == study.parent.resolve()
    assert len(BIDSDataset(study, 32).load()) == 12


def test_links_out_of_any_data_set_are_one_problem_with_its_remedy(study):
    move_to_annex(study)
    (study.parent / ".git").rename(study.parent / "elsewhere")
    for file in study.glob("sub-*/anat/*.nii.gz"):
        name = file.name
        file.unlink()
        file.symlink_to(study.parent / "elsewhere" / "annex" / "objects" / name)
    problems = BIDSDataset(study, 32).survey().problems
    (problem,) = [p for p in problems if "link" in p.sentence]
    assert "all 12 images have this problem" in problem.sentence
    assert "--follow-links" in problem.sentence
    words = ["check", str(study), "--quiet"]
    assert CliRunner().invoke(app, words).exit_code == 2
    result = CliRunner().invoke(app, [*words, "--follow-links"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", ["run", "train", "export", "harmonize", "evaluate", "check"])
def test_every_command_that_reads_data_has_all_of_its_options(command):
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
    for option in ("suffix", "contains", "center", "follow-links", "slice-z", "skip-bad",
                   "age-unit", "features", "sex-codes"):  # fmt: skip
        assert f"--{option}" in text


def test_mixed_spaces_are_said_with_the_remedy(study):
    for person in ("sub-00", "sub-01"):
        (study / person / "anat" / f"{person}_T1w.nii.gz").unlink()
        save_bids_scan(study, person, entity="space-MNI152NLin2009cAsym")
    dataset = BIDSDataset(study, 32)
    dataset.load()
    (said,) = [n.text for n in dataset.notes if "different spaces" in n.text]
    assert "10 with no space entity, 2 with space-MNI152NLin2009cAsym" in said
    assert "--contains" in said
    alone = BIDSDataset(study, 32, contains="space-MNI")
    assert not [n for n in alone.survey().notes if "different spaces" in n.text]


def test_the_sheet_lists_the_heights_of_the_slices(study):
    output = CliRunner().invoke(app, ["check", str(study), "--quiet"]).output
    assert "Slice heights (mm)" in output and "a 0 ± 0" in output


def test_volumes_of_one_site_on_different_grids_are_noted(study):
    for i in range(12):
        shape = (40, 44, 30) if i < 3 else (36, 40, 28)
        data = np.random.default_rng(i).random(shape, dtype=np.float32) + 1
        data[:8] = data[-8:] = 0
        save_bids_scan(study, f"sub-{i:02d}", data=data)
    output = " ".join(CliRunner().invoke(app, ["check", str(study), "--quiet"]).output.split())
    assert "site a holds volumes on different grids (3 of 40 x 44 x 30 voxels" in output
    assert "site b holds volumes" not in output


def test_sites_cut_at_different_heights_are_noted(study):
    for i in range(12):
        affine = np.diag([4.0, 4.0, 4.0, 1.0])
        affine[2, 3] = 20.0 * (i >= 6)
        save_bids_scan(study, f"sub-{i:02d}", affine=affine)
    output = " ".join(CliRunner().invoke(app, ["check", str(study), "--quiet"]).output.split())
    assert "have different heights in their headers (mm: a 0 ± 0, b 20 ± 0)" in output
    assert "give --slice-z" in output
