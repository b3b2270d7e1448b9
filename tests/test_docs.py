"""The documentation says what is true: its tables are current, its commands run as printed."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from harmbench.cli.app import app
from harmbench.config import RunConfig, build_dataset
from harmbench.data.bids_write import write_bids
from harmbench.data.toy import ToyDataset
from harmbench.engine.layout import identity_of
from harmbench.results.folder import RunFolder

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
GENERATED = re.compile(r"<!-- harmbench (\w+ --\w+) -->\n(.*?)<!-- end -->", re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHORT = ("methods", "metrics", "datasets", "phantom", "check-method")
"""Commands that are run, not only parsed: seconds each."""


def commands(page: Path) -> list[str]:
    """Return the harmbench commands in the shell blocks of a page, without their comments."""
    blocks = "\n".join(SHELL.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    lines = [line for text in blocks.splitlines() for line in text.split("&&")]
    return [line.strip() for line in lines if line.strip().startswith("harmbench ")]


EVERY = [
    pytest.param(line, id=f"{page.name}: {line[:60]}") for page in PAGES for line in commands(page)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_generated_tables_are_current(page: Path) -> None:
    for kind, held in GENERATED.findall(page.read_text(encoding="utf-8")):
        result = CliRunner().invoke(app, kind.split())
        assert result.exit_code == 0
        assert held.strip() == result.output.strip(), (
            f"the table of {kind} in {page.name} is not what `harmbench {kind}` prints"
        )


def test_there_are_commands_and_tables_to_check() -> None:
    assert len(EVERY) > 20
    kinds = [kind for page in PAGES for kind, _ in GENERATED.findall(page.read_text("utf-8"))]
    tables = {f"{kind} --markdown" for kind in ("methods", "metrics", "datasets")}
    assert {*tables, "metrics --products"} <= set(kinds)


@pytest.mark.parametrize("line", EVERY)
def test_every_printed_command_has_a_form_that_the_program_knows(line: str) -> None:
    arguments = [a for a in shlex.split(line, comments=True)[1:] if a != "..."]
    group: Any = typer.main.get_command(app)
    with group.make_context("harmbench", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, arguments)
        assert command is not None, name
        if "--help" not in rest:
            command.make_context(name, rest, parent=context).close()


@pytest.mark.filterwarnings("default")  # as for a user: the suite makes errors of warnings
@pytest.mark.parametrize(
    "line", [each for each in EVERY if str(each.values[0]).split()[1] in SHORT]
)
def test_short_commands_run_as_printed(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(from harmbench.*?)```", readme, re.DOTALL)
    for name in ("mine.py", "method.py"):
        Path(name).write_text(code)
    result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
    assert result.exit_code == 0, result.output


# In the order of a reader -------------------------------------------------------------------------

READING = [
    "README.md",
    "tour.md",
    "data.md",
    "plugins.md",
    "methods.md",
    "external.md",
    "scaling.md",
]
NOT_PLANNED = ("--dask", "config.json")
"""Runs that need a cluster, or the settings that an earlier command leaves behind."""


def test_runs_in_the_order_of_a_reader_never_meet_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run begins in its folder as if all runs before it had been made there."""
    planned = []

    def plan(config: RunConfig, folder: Path) -> str:
        identity = identity_of(config, build_dataset(config))
        place = RunFolder(folder)
        place.begin(identity)  # raises where the folder holds another run
        if not place.config_file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            place.config_file.write_text(json.dumps({"identity": identity}))
        planned.append(folder)
        return ""

    monkeypatch.setattr("harmbench.cli.run._plan", plan)
    monkeypatch.chdir(tmp_path)
    write_bids(ToyDataset(24, shape=(32, 32)).load(), Path("my-study"), spacing_mm=4.0, name="x")
    (tmp_path / "weights" / "NAME").mkdir(parents=True)
    for table in ("participants", "lh", "rh", "lh.thickness", "rh.thickness"):
        Path(f"{table}.tsv").write_text("participant_id\tsite\nsub-01\ta\n")
    pages = sorted(PAGES, key=lambda page: READING.index(page.name) if page.name in READING else 9)
    for page in pages:
        for name, code in re.findall(r"(\w+\.(?:py|toml))`?:?\n+```(?:sh|python|toml)?\n(.*?)```",
                                     page.read_text("utf-8"), re.DOTALL):  # fmt: skip
            Path(name).write_text(code)
        for code in re.findall(r"```(?:python|toml)\n(# \w+\.\w+\n.*?)```",
                               page.read_text("utf-8"), re.DOTALL):  # fmt: skip
            Path(code.split()[1]).write_text(code)
        if page.name == "README.md":
            (code,) = re.findall(
                r"```python\n(from harmbench.*?)```", page.read_text("utf-8"), re.DOTALL
            )
            Path("mine.py").write_text(code)
            Path("study.toml").write_text('preset = "smoke"\nmethods = ["combat"]\n')
        for line in commands(page):
            if line.split()[1] != "run" or any(word in line for word in NOT_PLANNED):
                continue
            words = shlex.split(line.replace("NAME", "combat"), comments=True)[1:]
            Path("weights/combat").mkdir(exist_ok=True)
            result = CliRunner().invoke(app, [*words, "--dry-run"])
            assert result.exit_code == 0, (page.name, line, result.exception)
    assert len(planned) > 15
    assert Path("results/phantom-standard") in planned
