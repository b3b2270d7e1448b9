"""The page of licenses names every package that pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def rows() -> dict[str, str]:
    page = (ROOT / "docs" / "licenses.md").read_text(encoding="utf-8")
    cells = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("|")]
    return {row[0]: row[2] for row in cells if len(row) >= 3 and row[0] not in ("package", "---")}


def direct() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [canonicalize_name(Requirement(text).name) for text in project["dependencies"]]


@pytest.mark.parametrize("name", direct())
def test_every_direct_dependency_is_listed_with_an_open_license(name):
    assert re.search(r"BSD|MIT|Apache|PSF", rows()[name]), "make the page anew: nox -s licenses"


def test_nothing_is_non_commercial_strong_copyleft_or_unknown():
    assert len(rows()) > 2 * len(direct())
    for name, text in rows().items():
        assert not re.search(r"non-?commercial|\bA?GPL|not stated", text, re.I), (name, text)
