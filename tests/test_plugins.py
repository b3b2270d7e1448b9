"""The examples of docs/plugins.md and the README, run as their readers would run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
CLI = [sys.executable, "-m", "harmbench"]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def examples() -> dict[str, str]:
    return {code.split("\n", 1)[0][2:]: code for code in blocks("docs/plugins.md", "python")}


def harmbench(*args: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if path:
        env["PYTHONPATH"] = str(path)
    return subprocess.run([*CLI, *args], cwd=cwd, env=env, capture_output=True, text=True)


def overall(out: Path) -> pd.DataFrame:
    scores = pd.read_csv(out / "scores.csv")
    return scores[scores["group"] == "all"].set_index(["label", "metric"])


def test_plugins_from_files(tmp_path: Path) -> None:
    for name, code in examples().items():
        (tmp_path / name).write_text(code)
    done = harmbench(
        *["run", "--methods", "method.py:Centering", "--data", "dataset.py:Stripes"],
        *["--metrics", "metric.py:brightness", "distance_pcc", "--out", "out", "--quiet"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    table = overall(tmp_path / "out")
    assert set(table["status"]) == {"ok"}
    assert table.loc[("Centering", "distance_pcc"), "value"] > 0.5
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "Brightness" in page
    assert "Centering" in page


def test_plugins_from_an_installed_package(tmp_path: Path) -> None:
    package = tmp_path / "source" / "my_harmonization"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('"""An example."""\n')
    for name, code in examples().items():
        (package / name).write_text(code)
    project = next(b for b in blocks("docs/plugins.md", "toml") if "build-system" in b)
    (package.parent / "pyproject.toml").write_text(project)
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    done = subprocess.run(
        [sys.executable, *install, str(site), str(package.parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    done = harmbench(
        *[
            "run",
            "--methods",
            "centering",
            "--data",
            "stripes",
            "--metrics",
            "brightness",
            "--out",
            "out",
            "--quiet",
        ],
        cwd=tmp_path,
        path=site,
    )
    assert done.returncode == 0, done.stderr
    assert overall(tmp_path / "out").loc[("centering", "brightness"), "status"] == "ok"
    shown = harmbench("methods", "centering", cwd=tmp_path, path=site)
    assert "Shifts images" in shown.stdout


def test_the_readme_example_holds_the_contract(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(blocks("README.md", "python")[0])
    done = harmbench("check-method", "mine.py:Centering", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "BROKEN" not in done.stdout


def test_a_broken_method_is_told_so(tmp_path: Path) -> None:
    code = examples()["method.py"].replace("return cohort.images - own", "return -own")
    (tmp_path / "broken.py").write_text(code)
    done = harmbench("check-method", "broken.py:Centering", cwd=tmp_path)
    assert done.returncode == 1
    assert "BROKEN  fits and harmonizes" in done.stdout


@pytest.mark.parametrize("kind", ["methods", "metrics", "datasets"])
def test_everything_registered_can_be_listed_and_shown(kind: str) -> None:
    from harmbench import registry
    from harmbench.cli.listing import show

    singular: registry.Kind = kind.removesuffix("s")  # type: ignore[assignment]
    listed = show(singular, None)
    for name in registry.names(singular):
        assert name in listed
        assert "label" in show(singular, name)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("run --methods combatt", "unknown method 'combatt'; did you mean 'combat'?"),
        ("run", "nothing to judge"),
        ("run --methods combat --data nowhere", "unknown data set 'nowhere'"),
        ("run --methods combat --out scores.txt", "is a file"),
        ("run --methods combat --config none.toml", "cannot be read"),
        ("report .", "holds no run"),
    ],
)
def test_what_the_user_can_mend_ends_with_code_2_and_one_sentence(
    tmp_path: Path, args: str, sentence: str
) -> None:
    (tmp_path / "scores.txt").write_text("precious")
    done = harmbench(*args.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "scores.txt").read_text() == "precious"
    assert os.listdir(tmp_path) == ["scores.txt"]
