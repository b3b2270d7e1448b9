from __future__ import annotations

import base64
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import chi2_contingency, f_oneway, ks_2samp
from support import made_up_scan, save_bids_scan
from typer.testing import CliRunner

from harmbench.cli import check_page
from harmbench.cli.app import app
from harmbench.cli.check_text import text_of
from harmbench.config import build_dataset, resolve
from harmbench.contracts.cohort import Cohort
from harmbench.data.bids import BIDSDataset
from harmbench.data.confounding import (
    confounding,
    cramers_v,
    eta_squared,
    overlap,
    overlaps,
)
from harmbench.data.phantom.cohort import Phantom
from harmbench.data.problems import Problem, printable, refuse, some
from harmbench.data.sheet import image_statistics, make_sheet, site_table
from harmbench.errors import HarmbenchError

N = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 subjects at two sites whose ages do not overlap, with two kinds of grid."""
    root = tmp_path / "study"
    rows = ["participant_id\tage\tsex\tsite"]
    for k in range(N):
        site = "ab"[k % 2]
        data = made_up_scan(k, (40, 44, 1))
        save_bids_scan(root, f"sub-{k:02d}", data=data[..., 0] if site == "b" else data)
        rows.append(f"sub-{k:02d}\t{20 + k + 40 * (k % 2)}\t{'FM'[k % 2]}\t{site}")
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root


def run(*args: object):
    return CliRunner().invoke(app, ["check", *map(str, args), "--quiet"])


# ---- confounding


def subjects(n: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    site = rng.choice(["a", "b", "c"], n)
    return pd.DataFrame(
        {
            "participant_id": [f"p{i}" for i in range(n)],
            "site": site,
            "age": rng.normal(50, 10, n) + 8 * (site == "b"),
            "sex": np.where(rng.random(n) < np.where(site == "c", 0.8, 0.4), "F", "M"),
        }
    )


def test_numbers_agree_with_other_definitions():
    table = subjects()
    groups = [rows["age"].to_numpy() for _, rows in table.groupby("site")]
    f = f_oneway(*groups).statistic
    expected = f * 2 / (f * 2 + len(table) - 3)
    assert eta_squared(table["age"], table["site"]) == pytest.approx(expected)
    counts = pd.crosstab(table["site"], table["sex"])
    chi2 = chi2_contingency(counts, correction=False).statistic
    assert cramers_v(table["site"], table["sex"]) == pytest.approx(np.sqrt(chi2 / len(table)))
    one, two = groups[:2]
    assert overlap(one, two) == pytest.approx(1 - ks_2samp(one, two).statistic)
    assert overlaps(table).loc["a", "b"] == overlap(one, two)


def test_extremes_of_confounding():
    assert eta_squared([1, 1, 5, 5], list("aabb")) == 1
    assert eta_squared([1, 5, 1, 5], list("aabb")) == 0
    assert np.isnan(eta_squared([3, 3], list("ab")))
    assert eta_squared([1, 1, 5, 5, np.nan], list("aabbb")) == 1
    assert cramers_v(list("aabb"), list("FFMM")) == 1
    assert np.isnan(cramers_v(list("aabb"), list("FFFF")))
    assert overlap([1, 2, 3], [4, 5]) == 0 and overlap([1, 2], [1, 2]) == 1


def test_chance_is_what_lots_give():
    rng = np.random.default_rng(0)
    table = subjects(60)
    etas, vs = [], []
    for _ in range(120):
        site = rng.permutation(table["site"])
        etas.append(eta_squared(table["age"], site))
        vs.append(cramers_v(site, table["sex"]) ** 2)
    age, _, sex = confounding(table)
    assert age.chance == pytest.approx(np.mean(etas), rel=0.25)
    assert sex.chance**2 == pytest.approx(np.mean(vs), rel=0.25)


def test_meaning_follows_the_numbers():
    table = subjects()
    strong = table.assign(age=table["age"] + 100 * (table["site"] == "b"))
    assert "differ strongly in age" in confounding(strong)[0].meaning
    apart = confounding(strong)[1]
    assert apart.value < 0.05 and "a and b; b and c do not overlap" in apart.meaning
    level = table.assign(age=np.tile([40.0, 50, 60], 100), sex=["F", "M"] * 150)
    assert "differ little" in confounding(level)[0].meaning
    assert "similar shares" in confounding(level)[2].meaning
    nobody = confounding(table.assign(age=np.nan, sex=None))
    assert all(np.isnan(one.value) for one in nobody)


def test_a_subject_counts_once_at_a_site():
    table = subjects(30)
    doubled = pd.concat([table, *[table[table["site"] == "b"]] * 3], ignore_index=True)
    assert [one[1::2] for one in confounding(doubled)] == [one[1::2] for one in confounding(table)]
    rows = site_table(doubled.assign(session_id=np.arange(len(doubled)).astype(str)))
    b = int((table["site"] == "b").sum())
    assert rows[rows["Site"] == "b"][["Subjects", "Scans"]].to_numpy().tolist() == [
        [str(b), str(4 * b)]
    ]


def test_image_statistics_of_known_images():
    image = np.zeros((3, 7, 9), np.float32)
    mask = np.zeros((3, 7, 9), bool)
    mask[:, 2:4, 3:7] = True
    image[0][mask[0]] = 0.5
    image[1, 2, 3:7], image[1, 3, 3:7] = 0.2, 0.6
    table = pd.DataFrame(
        {"participant_id": list("xyz"), "session_id": "", "slice": 0, "site": list("aab")}
    )
    found = image_statistics(Cohort(image, table, mask))
    np.testing.assert_allclose(found["Intensity"], [0.5, 0.4, 0])
    np.testing.assert_allclose(found["Contrast"], [0, 0.5, np.nan], atol=1e-6)
    # Four steps of 0.4 across the edge, among ten pairs of neighbors in the foreground.
    np.testing.assert_allclose(found["Sharpness"], [0, 0.16 / 0.4, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["Foreground"], 100 * 8 / 63)


# ---- the sheet


def test_the_sheet_of_sound_data(folder):
    sheet = make_sheet(BIDSDataset(folder, size=16))
    assert not sheet.problems and sheet.test_scans == 24
    assert list(sheet.sites["Subjects"]) == ["12", "12", "24"]
    assert list(sheet.sites["Female"]) == ["100%", "0%", "50%"]
    assert list(sheet.files["Shape"]) == ["40 x 44 x 1", "40 x 44"]
    assert [one.value for one in sheet.confounding[1:]] == [0, 1]
    names = [title for title, _ in sheet.thumbnails["a"]]
    assert len(names) == 6 and names[0] == "sub-00 (20 F)" and names[-1] == "sub-22 (42 F)"


def test_scans_unlike_others_and_copies_are_noted(folder):
    smooth = made_up_scan(0)
    for k in range(N):
        data = np.where(smooth > 0, 100 + 3.0 * np.arange(44)[:, None], 0).astype(np.float32)
        data *= 1 + 0.01 * np.random.default_rng(k).random(data.shape, np.float32)
        save_bids_scan(folder, f"sub-{k:02d}", data=data[:, ::-1] if k == 7 else data)
    (folder / "sub-09/anat/sub-09_T1w.nii.gz").write_bytes(
        (folder / "sub-11/anat/sub-11_T1w.nii.gz").read_bytes()
    )
    notes = make_sheet(BIDSDataset(folder, size=16)).notes
    assert any(note.startswith("look at sub-07: unlike") for note in notes)
    assert any("under different names: sub-09 and sub-11" in note for note in notes)


def test_all_problems_come_in_one_pass_and_in_the_words_of_a_run(folder):
    table = (folder / "participants.tsv").read_text()
    table = table.replace("sub-03\t63", "sub-03\told").replace("sub-04\t24\tF", "sub-04\t24\tx")
    (folder / "participants.tsv").write_text(table)
    (folder / "sub-05/anat/sub-05_T1w.nii.gz").write_bytes(b"")
    sheet = make_sheet(BIDSDataset(folder, size=16))
    places = [re.search(r"sub-\d\d", problem.place)[0] for problem in sheet.problems]
    assert places == ["sub-03", "sub-04", "sub-05"]
    result = run(folder)
    assert result.exit_code == 2 and "3 problems. A run refuses these data" in result.output
    with pytest.raises(HarmbenchError) as error:
        BIDSDataset(folder, size=16).load()
    for problem in sheet.problems[:2]:
        assert str(problem) in str(error.value)
    skipping = run(folder, "--skip-bad")
    assert skipping.exit_code == 0 and "leaves out these 3 scans" in skipping.output
    assert "Subjects                  21" in skipping.output


def test_a_folder_without_anything_is_one_problem(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty")
    assert result.exit_code == 2 and "holds no image" in " ".join(result.output.split())


def test_too_few_subjects_for_a_split_is_a_problem(folder):
    for k in range(4, N):
        (folder / f"sub-{k:02d}/anat/sub-{k:02d}_T1w.nii.gz").unlink()
    sheet = make_sheet(BIDSDataset(folder, size=16))
    assert any("too few subjects at" in problem.sentence for problem in sheet.problems)


# ---- the command


def test_text_fits_a_terminal(folder):
    with (folder / "participants.tsv").open("a") as table:
        table.writelines(f"sub-absent{k}\t30\tF\ta\n" for k in range(30))
    result = run(folder)
    assert result.exit_code == 0
    lines = [line for line in result.output.splitlines() if not line.startswith("To run:")]
    assert max(map(len, lines)) <= 80
    assert "site_bacc" in result.output  # 12 scored images are too few for it


def test_options_reach_the_data_set_and_its_configuration(folder):
    text = (folder / "participants.tsv").read_text().replace("sex\tsite", "Gender (1=m, 2=f)\thome")
    (folder / "participants.tsv").write_text(
        text.replace("\tF\t", "\t2\t").replace("\tM\t", "\t1\t")
    )
    assert run(folder).exit_code == 2
    flags = ["--site-column", "home", "--sex-column", "Gender (1=m, 2=f)", "--age-column", "age"]
    result = run(folder, *flags, "--sex-codes", "1=M,2=F")
    assert result.exit_code == 0, result.output
    config = resolve(
        data=str(folder), data_options={"site_column": "home", "sex_codes": "1=M,2=F", "z": 3.0}
    )
    assert config.data.params["site_column"] == "home" and config.data.params["size"] == 64
    with pytest.raises(HarmbenchError, match=r"'phantom': 'site_column'.*Known"):
        resolve(data="phantom", data_options={"site_column": "home"})


class Outside(HTMLParser):
    """Gathers everything on a page that would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "src" and value.startswith("data:image/png;base64,"):
                self.pictures.append(value.partition(",")[2])
            elif name in ("src", "href") and not value.startswith("#"):
                self.found.append(value)
        if tag in ("script", "iframe", "object", "link"):
            self.found.append(tag)


def test_the_page_stands_alone_and_shows_every_site(folder, tmp_path):
    text = (folder / "participants.tsv").read_text()
    (folder / "participants.tsv").write_text(text.replace("\ta\n", "\t<script>a</script>\n"))
    page = tmp_path / "sheet.html"
    assert run(folder, "--html", page).exit_code == 0
    content = page.read_text(encoding="utf-8")
    reader = Outside()
    reader.feed(content)
    assert reader.found == [] and len(reader.pictures) == 12
    assert "<h3>&lt;script&gt;a&lt;/script&gt;</h3>" in content and "@import" not in content
    (tmp_path / "first.png").write_bytes(base64.b64decode(reader.pictures[0]))
    assert Image.open(tmp_path / "first.png").size == (64, 64)


def test_a_page_that_cannot_be_written_is_refused_before_reading(folder, tmp_path):
    result = run(folder, "--html", tmp_path / "no" / "sheet.html")
    assert isinstance(result.exception, HarmbenchError)
    assert "name a file in a folder that exists" in str(result.exception)


def test_other_kinds_of_data_have_a_sheet(tmp_path):
    rng = np.random.default_rng(0)
    content = {
        "images": rng.uniform(0.2, 0.9, (12, 16, 16)),
        "participant_id": np.array([f"p{k}" for k in range(12)]),
        "site": np.array(["a", "b"] * 6),
        "age": np.linspace(20, 80, 12),
        "sex": np.array(["F", "M", "M"] * 4),
    }
    np.savez(tmp_path / "data.npz", **content)
    result = run(tmp_path / "data.npz")
    assert result.exit_code == 0 and "12 of 16 x 16 pixels" in result.output
    np.savez(tmp_path / "data.npz", **content | {"age": np.full(12, 500.0)})
    assert "'500.0', which are not ages" in run(tmp_path / "data.npz").output


@pytest.mark.parametrize(
    ("kind", "read", "set_aside"),
    [
        ("bids", "site: column 'site' of participants.tsv, 2 sites", "sub-99: a row in"),
        ("npz", "arrays of data.npz: age, extra, images", "array 'extra': it does not"),
        ("csv", "2 features: hippocampus, amygdala", "column comment: text"),
        ("phantom", "a simulation, version 1", ""),
    ],
)
def test_the_sheet_of_every_kind_says_what_was_read_and_set_aside(
    folder, tmp_path, kind, read, set_aside
):
    columns = {
        "participant_id": [f"p{k}" for k in range(12)],
        "site": ["a", "b"] * 6,
        "age": np.linspace(20, 80, 12),
        "sex": ["F", "M", "M"] * 4,
    }
    if kind == "bids":
        with (folder / "participants.tsv").open("a") as table:
            table.write("sub-99\t20\tF\ta\n")
    elif kind == "npz":
        arrays = {name: np.array(values) for name, values in columns.items()}
        images = np.random.default_rng(0).uniform(0.2, 0.9, (12, 16, 16))
        np.savez(tmp_path / "data.npz", **arrays, images=images, extra=np.zeros(5))
    elif kind == "csv":
        features = {"hippocampus": np.arange(12) ** 2, "amygdala": 2.5 * np.arange(12)}
        content = pd.DataFrame(columns | features | {"comment": "none given"})
        content.to_csv(tmp_path / "data.csv", index=False)
    data = {"bids": folder, "phantom": "phantom"}.get(kind, tmp_path / f"data.{kind}")
    config = resolve(data=str(data), preset="smoke")
    dataset = Phantom(n=24, size=32) if kind == "phantom" else build_dataset(config)
    sheet = make_sheet(dataset)
    shown = "\n".join(text_of(sheet, "", []))
    page = check_page.page(sheet, "", [])
    for title, said, sentences in (
        ("Read", read, sheet.read),
        ("Set aside", set_aside, sheet.set_aside),
    ):
        assert bool(said) == (f"\n{title}\n---" in shown) == (f"<h2>{title}</h2>" in page)
        assert said in "\n".join(sentences)
        assert said in " ".join(shown.split())
        assert said in unescape(page)


# ---- problems


def test_many_problems_are_listed_in_part():
    problems = [Problem(f"file-{k}", "is bad", ("sub", str(k))) for k in range(25)]
    with pytest.raises(HarmbenchError, match="25 problems") as error:
        refuse(problems)
    said = str(error.value)
    assert "file-19" in said and "file-20" not in said and "5 more" in said
    with pytest.raises(HarmbenchError) as whole:
        refuse([Problem("participants.tsv", "has no column")])
    assert str(whole.value) == "participants.tsv: has no column"
    refuse([])
    assert some("abcdefg", 2) == "a, b and 5 more"


def test_control_characters_never_reach_a_terminal():
    problem = Problem("sub-\x1b[31m", "age '\x07\u202e' is\nbad", None)
    assert all(char.isprintable() for char in str(problem))
    assert printable("Größe ± 3") == "Größe ± 3"
