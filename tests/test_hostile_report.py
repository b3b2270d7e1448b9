"""Texts from tables, settings and methods that would be markup: the report shows them as text."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from support import make_run_folder

import reports
from harmbench.cli.check_page import page
from harmbench.data.arrays import ArrayDataset
from harmbench.data.sheet import make_sheet
from harmbench.files.atomic import read_arrays, write_arrays
from reports.html import page_content, render_html, render_markdown
from reports.results import read_results

EVIL = (
    "</script></style></title>--><img src=x onerror=alert(1)><svg/onload=alert(1)>\"'><b>"
    "$x_{$ \\input{/etc/passwd} %& ```\n# [a](javascript:alert(1)) ![](http://x/y.png) |<!--{{7*7}}"
)
NAMES = re.compile(
    r"site-[a-z]|sub-\d+|combat|ddae|Made-up heads|Ellipses .*|CC0|10\.1000/made-up|Age MAE|years"
    r"|These numbers .*|What .*|fit: ValueError.*|the Inception .*"
)


def poisoned(value: Any, bad: str) -> Any:
    """Return a value whose names, as they stand in it, are preceded by a text."""
    if isinstance(value, dict):
        return {poisoned(k, bad): poisoned(v, bad) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(v, bad) for v in value]
    return bad + value if isinstance(value, str) and NAMES.fullmatch(value) else value


def hostile_run(root: Path, bad: str) -> Path:
    """Write a run in which every name, label, description and reason begins with a text."""
    folder = make_run_folder(root, failing=("ddae",))
    for file in [p for p in folder.rglob("*") if p.is_file()]:
        if file.suffix == ".json":
            file.write_text(json.dumps(poisoned(json.loads(file.read_text()), bad)))
        elif file.suffix == ".csv":
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
            table.map(lambda cell: poisoned(cell, bad)).to_csv(file, index=False)
        elif file.suffix == ".npz":
            held = read_arrays(file)
            if "sites" in held:
                held["sites"] = np.array([bad + site for site in held["sites"]])
            renamed = {
                re.sub(r"(\.)(site-)", lambda m: f".{bad}{m[2]}", k): v for k, v in held.items()
            }
            write_arrays(file, renamed)
    return folder


class Skeleton(HTMLParser):
    """The elements of a page with the names of their attributes, and where they lead."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.addresses: set[str] = set()
        self.comments = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.addresses |= {str(v).split(":")[0] for k, v in attrs if k in ("href", "src", "action")}

    def handle_endtag(self, tag: str) -> None:
        self.elements.append((f"/{tag}", ()))

    def handle_comment(self, data: str) -> None:
        self.comments += 1


def test_no_text_becomes_an_element_of_the_page(tmp_path: Path) -> None:
    pages = []
    for name, bad in (("plain", "http://plain "), ("hostile", EVIL)):
        content = page_content(read_results(hostile_run(tmp_path / name, bad)))
        pages.append(Skeleton(render_html(content | {"left_out": [bad]}, [])))
    plain, hostile = pages
    assert len(plain.elements) > 500
    assert plain.elements == hostile.elements
    assert hostile.addresses <= plain.addresses | {"https"} and hostile.comments == 0


def test_a_whole_report_of_a_hostile_run(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path / "run", EVIL)
    text = Skeleton(reports.build(folder).read_text())
    assert {tag for tag, _ in text.elements}.isdisjoint({"b/", "iframe", "object", "base", "form"})
    assert not any(name.startswith("on") for _, names in text.elements for name in names)
    assert text.addresses <= {"data", "https"} | {a for a in text.addresses if a.startswith("#")}
    assert all(p.resolve().is_relative_to(folder) for p in folder.rglob("*"))
    said = (folder / "report.md").read_text()
    outside_code = re.sub(r"^(`{3,}).*?^\1$", "", said, flags=re.M | re.S)
    assert not re.search(r"<(img|svg|script|b|/)", outside_code)
    assert not re.search(r"(?<!\\)\]\((?!figures/|https://doi\.org/)", outside_code)
    for file in (folder / "tables").glob("*.tex"):
        assert r"\input" not in file.read_text()
    assert "javascript" in said  # it is shown
    reports.terminal_table(folder)


def test_the_page_of_a_data_sheet(tmp_path: Path) -> None:
    pages = []
    for bad in ("A" * 9, EVIL.replace("\n", " ")):
        rng = np.random.default_rng(0)
        images = np.pad(rng.uniform(0.2, 0.9, (12, 5, 4)), ((0, 0), (2, 2), (2, 2)))
        names = np.array([f"{bad}{i}" for i in range(12)])
        file = tmp_path / "data.npz"
        sites, sexes = np.array([bad + "a", bad + "b"] * 6), np.array(["F", "M"] * 6)
        np.savez(file, images=images, participant_id=names, site=sites, sex=sexes,
                 age=np.linspace(20, 80, 12))  # fmt: skip
        pages.append(Skeleton(page(make_sheet(ArrayDataset(file)), bad, [bad])))
    assert pages[0].elements == pages[1].elements and len(pages[0].elements) > 50


def test_the_command_is_words_for_a_shell_and_stays_in_its_block(tmp_path: Path) -> None:
    bad = "```\n$(touch x); `touch x` 'a"
    content = page_content(read_results(hostile_run(tmp_path / "run", bad)))
    words = shlex.split(content["command"].replace("\\\n", ""))
    assert f"{' '.join(bad.split())}combat" in words and "touch" not in words
    lines = render_markdown(content | {"left_out": []}, []).splitlines()
    assert lines.count("```") == 2
