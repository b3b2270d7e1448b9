"""The notebooks of the documentation run as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads(path.read_text("utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert codes
    assert not any(cell.get("outputs") for cell in cells), "outputs belong to no repository"
    names: dict[str, Any] = {}
    for code in codes:
        exec(compile(code, path.name, "exec"), names)
    table = names["results"].table()
    assert isinstance(table, pd.DataFrame)
    assert table.notna().any().all()
