"""The report says exactly what the run folder holds, escapes it, and never fails on a gap."""

from __future__ import annotations

import base64
import errno
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import make_run_folder

import reports
from harmbench.errors import HarmbenchError
from reports import figures, sheet, tables
from reports.attempts import attempt
from reports.drawing import chunks, colors
from reports.html import doi_url, page_content, render_html, render_markdown
from reports.results import ABSENT, read_results

EVIL = "<script>alert(1)</script>"


class _Page(HTMLParser):
    """Collects what a page loads and where its links go."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "src" or (name == "href" and tag != "a"):
                self.loads.append(value or "")
            elif name == "href":
                self.links.append(value or "")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run_folder(tmp_path_factory.mktemp("run") / "run", seeds=2)
    reports.build(folder)
    return folder


@pytest.fixture
def quick_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw all figures, but let every file be the same small picture."""
    from matplotlib.figure import Figure

    def save(drawn: figures.Drawn, folder: Path) -> figures.Saved:
        png = folder / f"{drawn.name}.png"
        png.parent.mkdir(exist_ok=True)
        Figure(figsize=(0.1, 0.1)).savefig(png)
        return figures.Saved(drawn.name, drawn.title, drawn.caption, png)

    monkeypatch.setattr(figures, "_save", save)


def test_everything_is_written(run: Path) -> None:
    for stem in ("results", "long", "sites"):
        for suffix in (".csv", ".md", ".tex"):
            assert (run / "tables" / f"{stem}{suffix}").stat().st_size > 0
    drawn = {path.stem for path in (run / "figures").glob("*.png")}
    assert drawn == {path.stem for path in (run / "figures").glob("*.pdf")}
    expected = {"slices", "differences", "errors", "histograms", "confusion", "age", "distances"}
    assert expected <= drawn
    assert {"scores-site-removal", "scores-biology-kept", "scores-individuals"} <= drawn


def test_csv_tables_hold_exactly_the_values_of_the_scores(run: Path) -> None:
    scores = pd.read_csv(run / "scores.csv", float_precision="round_trip")
    long = pd.read_csv(run / "tables" / "long.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(long[list(scores)], scores)
    wide = pd.read_csv(run / "tables" / "results.csv", float_precision="round_trip")
    wide = wide.set_index(["label", "seed"])
    overall = scores[scores["group"] == "all"]
    assert len(overall) == len(wide) * scores["metric"].nunique()
    for s in overall.itertuples():
        shown = wide.loc[(s.label, s.seed), [s.metric, f"{s.metric}_low", f"{s.metric}_high"]]
        np.testing.assert_array_equal(
            shown.to_numpy(dtype=float), np.array([s.value, s.ci_low, s.ci_high])
        )


def test_shown_values_are_the_stored_ones_rounded(run: Path) -> None:
    results = read_results(run)
    table = tables.results_table(results)
    for band in table.bands:
        for column in band.columns:
            for row, cell in zip(table.rows, column.cells, strict=True):
                score = results.score(row, column.metric["name"])
                if score.ok:
                    digits = len(cell.text.partition(".")[2])
                    assert float(cell.text) == pytest.approx(score.value, abs=0.51 * 10**-digits)
                    assert cell.interval.startswith("[")
                else:
                    assert cell.text == "—" and not cell.interval


def test_methods_stand_before_controls_and_keep_their_order(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, methods=("zebra", "ant"), seeds=2, images=False)
    rows = read_results(folder).rows
    assert [(row.label, row.seed) for row in rows] == [
        ("zebra", 0), ("zebra", 1), ("ant", 0), ("ant", 1), ("identity", 0), ("oracle", 0),
    ]  # fmt: skip
    assert [row.marked for row in rows[-2:]] == ["identity*", "oracle*†"]
    assert rows[1].title == "zebra (seed 1)"


def test_floors_of_a_single_row_do_not_stand_below_the_column(run: Path) -> None:
    assert read_results(run).floors("age_mae") == {"overall median": 14.0}


def test_notes_and_reasons_are_footnotes(run: Path) -> None:
    table = tables.results_table(read_results(run))
    assert set(table.footnotes) == {"underfit", "the Inception weights are not there"}
    columns = {c.metric["name"]: c for band in table.bands for c in band.columns}
    # The same reason in every row stands once, at the head.
    assert columns["fid_pooled"].notes and not columns["fid_pooled"].cells[0].notes
    shown = dict(zip([row.label for row in table.rows], columns["site_bacc"].cells, strict=True))
    assert shown["ddae"].notes == [table.footnotes.index("underfit") + 1]
    assert shown["combat"].notes == []


def test_nobody_is_clearly_better_than_the_strongest_shade(run: Path) -> None:
    results = read_results(run)
    columns = [c for band in tables.results_table(results).bands for c in band.columns]
    shaded = 0
    for column in columns:
        cells = [cell for cell in column.cells if np.isfinite(cell.shade)]
        shaded += len(cells)
        merits = [cell.merit for cell in cells]
        if cells:
            assert cells[int(np.argmin(merits))].shade == 1.0
            assert cells[int(np.argmax(merits))].shade < 1.0
    assert shaded > len(results.rows)


def test_rebuilding_gives_the_same_bytes(tmp_path: Path) -> None:
    run = make_run_folder(tmp_path, methods=("combat",), controls=(), sites=2, images=False)
    reports.build(run)

    def content() -> dict[str, bytes]:
        return {
            str(path.relative_to(run)): path.read_bytes()
            for path in sorted(run.rglob("*"))
            if path.suffix in (".md", ".html", ".csv", ".tex", ".png", ".pdf")
        }

    before = content()
    reports.build(run)
    after = content()
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


def test_page_is_self_contained(run: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert page.loads and all(load.startswith("data:image/png;base64,") for load in page.loads)
    assert "link" not in page.tags and "iframe" not in page.tags
    # One script, which the page's policy names by its hash; all else that is one holds data.
    inside = re.findall(r"<script([^>]*)>(.*?)</script>", text, flags=re.DOTALL)
    assert page.tags.count("script") == len(inside)
    (code,) = [body for kind, body in inside if not kind]
    assert all(kind.startswith(' type="application/json"') for kind, _ in inside if kind)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert "default-src 'none'; img-src data:" in text and f"'sha256-{digest}'" in text
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside and all(link.startswith("https://doi.org/") for link in outside)
    assert "url(" not in text and "@import" not in text
    targets = set(re.findall(r'id="([^"]+)"', text))
    assert {link[1:] for link in page.links if link.startswith("#")} <= targets
    assert "For research; not for diagnosis." in text


def test_markdown_names_only_figures_that_exist(run: Path) -> None:
    text = (run / "report.md").read_text(encoding="utf-8")
    named = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(named) == len(list((run / "figures").glob("*.png")))
    assert all((run / name).is_file() for name in named)
    assert "For research; not for diagnosis." in text


def test_what_was_read_and_set_aside_is_shown(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<h3>Read</h3>" in page and "<h3>Set aside</h3>" in page
    assert "1 table of &lt;made-up&gt; numbers" in page
    text = (run / "report.md").read_text(encoding="utf-8")
    assert "\nRead:\n\n- 1 table of " in text
    assert "\nSet aside:\n\n- column 'weight': not wanted\n" in text


def test_labels_and_reasons_are_escaped(tmp_path: Path) -> None:
    folder = make_run_folder(
        tmp_path, methods=(EVIL, "bro|ken_$x$"), failing=("bro|ken_$x$",), images=False
    )
    results = read_results(folder)
    content = page_content(results) | {"left_out": [EVIL]}
    page = render_html(content, [])
    assert EVIL not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "it <b>broke</b>" not in page and "it &lt;b&gt;broke&lt;/b&gt; | badly" in page
    text = re.sub("```.*?```", "", render_markdown(content, []), flags=re.DOTALL)
    assert EVIL not in text and "<b>" not in text
    assert r"bro\|ken\_$x$" in text
    frame = pd.DataFrame({"Method": [EVIL, "a_b & 5 % of #1"], "x": ["—", "↑"]})
    latex = tables.latex(frame)
    assert r"a\_b \& 5 \% of \#1" in latex and r"$\uparrow$" in latex and "—" not in latex
    assert r"\toprule" in latex


@pytest.mark.parametrize(
    "gaps",
    [
        {"truth": False},
        {"probes": False},
        {"images": False},
        {"methods": (), "controls": ("identity",), "truth": False, "probes": False},
        {"failing": ("combat", "identity"), "images": False},
    ],
)
def test_gaps_are_said_and_do_not_break(
    tmp_path: Path, gaps: dict[str, object], quick_files: None
) -> None:
    small = {"methods": ("combat",), "controls": ("identity",), "sites": 2, "n_per_site": 9}
    folder = make_run_folder(tmp_path, **{**small, **gaps})  # type: ignore[arg-type]
    page = reports.build(folder).read_text(encoding="utf-8")
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    if gaps.get("truth") is False:
        assert "errors" not in drawn and "these data have no ground truth" in page
    if gaps.get("probes") is False:
        assert not {"confusion", "age"} & drawn and "no site classifier was trained" in page
    if gaps.get("images") is False:
        assert not {"slices", "histograms"} & drawn and "no method returned images" in page
    if gaps.get("failing"):
        assert not drawn and "failed" in page and "badly" in reports.terminal_table(folder)


def test_figures_of_an_earlier_report_do_not_stay(tmp_path: Path, quick_files: None) -> None:
    folder = make_run_folder(tmp_path, methods=(), controls=("identity",), probes=False)
    old = folder / "figures" / "slices-9.png"
    old.parent.mkdir()
    old.write_bytes(b"")
    reports.build(folder)
    assert not old.exists()


def test_terminal_table_is_compact_and_complete(run: Path) -> None:
    text = reports.terminal_table(run)
    results = read_results(run)
    assert max(map(len, text.splitlines())) <= 80
    for row in results.rows:
        assert row.marked in text
        digits = tables.decimals([results.score(r, "age_mae").value for r in results.rows])
        assert tables.number(results.score(row, "age_mae").value, digits) in text
    assert "skipped: the Inception weights are not there" in text
    heads = text.splitlines()[0].split("  ")
    assert len([head for head in heads if head.strip()]) <= 7


def test_terminal_table_says_where_nothing_was_measured(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, failing=("combat", "identity"), methods=("combat",),
                             controls=("identity",), images=False)  # fmt: skip
    text = reports.terminal_table(folder)
    assert text.startswith("no metric has a value") and "failed: " in text


PARTS = [
    *("score_run", "claim_section", "short_answer", "score_frame", "score_note", "weighting"),
    *("results_table", "budgets", "site_tables", "stepper", "method_cards", "write_tables"),
    *("write_score_tables", "write_claim_table", "sheet.lead", "sheet.data_sheet"),
    *("sheet.problems", "sheet.provenance", "sheet.command", "sheet.settings"),
]
FIGURES = [
    *("figures.score_panels", "pareto.pareto_figure", "pictures.slices", "pictures.differences"),
    *("pictures.errors", "pictures.histograms", "embeddings.by_site", "embeddings.by_age"),
    *("diagnostics.confusions", "diagnostics.age_scatters", "leaks.told_ages", "leaks.pulls"),
    "diagnostics.distance_matrices",
]


@pytest.mark.parametrize("name", [f"html.{part}" for part in PARTS] + FIGURES)
def test_a_part_that_fails_is_left_out_with_its_reason(
    name: str, run: Path, tmp_path: Path, quick_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(f"reports.{name}", broken)
    page = reports.build(run, tmp_path / "out").read_text("utf-8")
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    sentence = "left out, because of an error in harmbench (KeyError:"
    assert sentence in page and sentence in text
    assert "Provenance" in page and "</html>" in page


def test_a_full_disk_and_what_the_user_can_mend_are_not_left_out() -> None:
    for error in (OSError(errno.ENOSPC, "full"), HarmbenchError("mend")):

        def broken(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)):
            attempt("Part", broken, [])


def test_data_sheet_counts_what_is_there(run: Path) -> None:
    results = read_results(run)
    described = sheet.data_sheet(results)
    facts = dict(described.facts)
    assert facts["Subjects"] == "36" and facts["Sites"] == "3"
    assert facts["Images by part"] == "fit 12, probe 12, test 12"
    ages, sites = results.participants["age"], results.participants["site"]
    between = sum(
        (sites == s).sum() * (ages[sites == s].mean() - ages.mean()) ** 2 for s in set(sites)
    )
    share = between / ((ages - ages.mean()) ** 2).sum()
    assert described.confounding[0][1].startswith(f"{share:.2f} (by chance ")
    assert described.sites["Subjects"].tolist() == ["12", "12", "12"]
    assert described.sites["Site"][0] == "site-a (reference)"


def test_missing_ages_are_counted(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, images=False, probes=False)
    path = folder / "data" / "participants.csv"
    table = pd.read_csv(path)
    table.loc[[0, 5], "age"] = np.nan
    table.to_csv(path, index=False)
    facts = dict(sheet.data_sheet(read_results(folder)).facts)
    assert facts["Age"].endswith(", 2 missing")


def test_settings_name_no_folder_of_the_machine(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, images=False, probes=False)
    results = read_results(folder)
    results.config["run"]["data"]["params"]["path"] = "/home/somebody/study"
    shown = sheet.settings(results) + sheet.command(results)
    assert "somebody" not in shown and "--data study" in shown


def test_unfinished_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(HarmbenchError, match="holds no run"):
        reports.build(tmp_path)
    make_run_folder(tmp_path, images=False)
    (tmp_path / "scores.csv").unlink()
    with pytest.raises(HarmbenchError, match="no scores yet"):
        reports.build(tmp_path)


def test_absent_score_is_a_dash(run: Path) -> None:
    results = read_results(run)
    assert results.score(results.rows[0], "no such metric") is ABSENT


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        ([0.95, 1.0], 3),
        ([14.2, 8.0], 1),
        ([0.089, 0.0083], 4),
        ([312.0], 0),
        ([], 3),
        ([2.0, 1.5, 900.0], 2),
    ],
)
def test_three_digits_of_the_middle_value(values: list[float], digits: int) -> None:
    assert tables.decimals(values) == digits


def test_number_has_no_minus_before_zero() -> None:
    assert tables.number(-0.0001, 3) == "0.000"
    assert tables.number(-0.1, 1) == "-0.1"
    assert tables.number(float("nan"), 2) == "—"


@pytest.mark.parametrize(
    ("doi", "url"),
    [
        ("arXiv:1706.08500", "https://doi.org/10.48550/arXiv.1706.08500"),
        ("10.1002/hbm.26422", "https://doi.org/10.1002/hbm.26422"),
        ("javascript:alert(1)", "https://doi.org/javascript:alert(1)"),
        ('10.1/a"b', "https://doi.org/10.1/a%22b"),
    ],
)
def test_doi_always_leads_to_doi_org(doi: str, url: str) -> None:
    assert doi_url(doi) == url


def test_many_names_keep_apart() -> None:
    looks = colors([f"site-{i}" for i in range(20)])
    assert len(set(looks.values())) == 20
    assert [len(part) for part in chunks(range(20), 8)] == [7, 7, 6]
    assert chunks([]) == []


def test_report_imports_no_torch_and_importing_it_is_light(run: Path) -> None:
    code = (
        "import sys, reports\n"
        "assert not {'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "reports.terminal_table(sys.argv[1])\n"
        "import reports.html, reports.figures, reports.pictures, reports.diagnostics\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
