"""The page in a real browser: it works, says no word on the console, and prints."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from support import make_run_folder

from harmbench.stats.scores import Sample, harmonic_mean
from reports import figures
from reports.html import page_content, render_html
from reports.results import Row, read_results
from reports.scores import BIOLOGY, SITE, RowScores, Scores
from reports.weighting import weighting

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--no-first-run",
    "--no-proxy-server",
    "--enable-logging=stderr",
    "--v=0",
)
LIMIT_S = 120
AXES = {"combat": (0.9, 0.5), "ddae": (0.5, 0.9), "identity": (0.0, 1.0)}

DRIVER = """
<script>
const told = [];
const say = (name, value) => told.push([name, value]);
const labels = (k) => [...document.querySelectorAll("table.results")[k].tBodies[0].rows]
  .map((row) => row.cells[0].textContent.trim());
const head = [...document.querySelectorAll("th[data-direction]")]
  .find((each) => each.textContent.includes("Age MAE"));
const column = () => [...head.closest("table").tBodies[0].rows]
  .map((row) => Number.parseFloat(row.cells[head.cellIndex].textContent));
say("before", labels(0));
for (const name of ["best", "worst", "again"]) {
  head.querySelector("button").click();
  say(name, [column(), head.getAttribute("aria-sort"), labels(0), labels(1)]);
}
head.querySelector("button").click();
document.querySelector("#sorted button").click();
const hidden = document.querySelector("#sorted button").hidden;
say("reset", [labels(0), head.getAttribute("aria-sort"), hidden]);

const parts = ["rank", "name", "value"];
const ranking = () => [...document.querySelectorAll("ol.ranking li")]
  .map((item) => parts.map((part) => item.querySelector("." + part).textContent.trim()));
const slider = document.getElementById("weight");
say("even", ranking());
for (const weight of [0, 80, 100]) {
  slider.value = weight;
  slider.dispatchEvent(new Event("input"));
  say("weight " + weight, ranking());
}

const box = document.getElementById("stepper");
const select = box.querySelector("select");
const source = () => box.querySelector("img").src;
const shown = () => [select.selectedIndex, source().length, source().slice(-40)];
const press = (key) => box.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
say("first", shown());
box.querySelector('button[data-step="1"]').click();
say("next", shown());
press("ArrowRight");
say("right", shown());
press("ArrowLeft");
press("ArrowLeft");
press("ArrowLeft");
say("around", shown());
select.selectedIndex = 1;
select.dispatchEvent(new Event("change"));
say("chosen", shown());
say("folded", [...document.querySelectorAll("details.folded")].map((each) => each.open));
const out = document.createElement("pre");
out.id = "told";
out.textContent = JSON.stringify(Object.fromEntries(told));
document.body.append(out);
</script>
</body>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed (looked for {', '.join(BROWSERS)})")
    return found


def _made_up_scores() -> Scores:
    """Return two methods as far apart as can be, which only the weights can rank."""
    none = np.full(3, np.nan)
    rows = []
    for label, pair in AXES.items():
        site, biology = (Sample(value, none) for value in pair)
        row = Row(label, 0, label, label == "identity", False)
        axes = {SITE: site, BIOLOGY: biology}
        rows.append(RowScores(row, {}, axes, harmonic_mean(site, biology), []))
    return Scores([], rows, (1.0, 1.0))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a page with everything on it that moves."""
    from matplotlib.figure import Figure

    root = tmp_path_factory.mktemp("browser")
    results = read_results(make_run_folder(root / "run", controls=("identity",), shape=(24, 32)))
    saved = []
    for name in ("slices", "scores-truth", "pareto"):
        Figure(figsize=(4, 3)).savefig(root / f"{name}.png")
        saved.append(figures.Saved(name, name, "How to read it.", root / f"{name}.png"))
    content = page_content(results) | {"left_out": [], "weighting": weighting(_made_up_scores())}
    return render_html(content, saved)


def _open(browser: str, page: str, folder: Path, *options: str) -> tuple[str, list[str]]:
    """Return the page as the browser has it after its scripts, and what stands on its console."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [browser, *FLAGS, profile, *options, "--dump-dom", file.as_uri()],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, console


def test_the_page_loads_without_a_word_and_prints(browser: str, page: str, tmp_path: Path) -> None:
    pdf = tmp_path / "page.pdf"
    dom, console = _open(browser, page, tmp_path, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    assert console == []
    assert re.search(r'<html[^>]* data-ready="1"', dom), "the script did not come to its end"
    assert re.search(r'<html[^>]* data-errors="0"', dom)
    pages = len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf.read_bytes()))
    assert pages > 1


def test_sorting_weights_and_images_work(browser: str, page: str, tmp_path: Path) -> None:
    # The page runs no script but its own; this copy also runs the driver.
    driven = re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", page)
    assert driven != page
    dom, console = _open(browser, driven.replace("</body>", DRIVER), tmp_path)
    assert console == []
    found = re.search(r'<pre id="told">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the driver did not come to its end"
    told = json.loads(unescape(found[1]))
    _check_sorting(told)
    _check_weights(told)
    _check_images(told)
    assert told["folded"] == [False, False]


def _check_sorting(told: dict) -> None:
    order = told["before"]
    assert order == ["combat", "ddae", "identity*"]
    values, state, first, second = told["best"]
    # All tables take the order of the sorted one; for errors best first is rising.
    assert values == sorted(values) and state == "ascending" and first == second != order
    worst, state, first, second = told["worst"]
    assert worst == sorted(values, reverse=True) and state == "descending"
    assert first == second == told["best"][2][::-1]
    assert told["again"][1:] == [None, order, order]
    assert told["reset"] == [order, None, True]


def _check_weights(told: dict) -> None:
    # At equal weights both have 2 * 0.9 * 0.5 / 1.4, as the tables have it, and share the rank.
    assert told["even"] == [["1.5", "combat", "0.643"], ["1.5", "ddae", "0.643"]]
    assert told["weight 0"] == [["1", "ddae", "0.900"], ["2", "combat", "0.500"]]
    assert told["weight 100"] == [["1", "combat", "0.900"], ["2", "ddae", "0.500"]]
    expected = 1 / (0.8 / 0.9 + 0.2 / 0.5)
    assert told["weight 80"][0] == ["1", "combat", f"{expected:.3f}"]


def _check_images(told: dict) -> None:
    assert told["first"][0] == 0 and told["next"][0] == 1 and told["right"][0] == 2
    assert len({told[name][2] for name in ("first", "next", "right")}) == 3
    # One step back and two more leave the first one for the last.
    assert told["around"][0] > 2 and told["around"][1] > 100
    assert told["chosen"] == told["next"]
