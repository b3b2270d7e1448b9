from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from harmbench.cli.command import HarmbenchCommand, expand

NAMES = {"--methods", "--metrics"}


@pytest.mark.parametrize(
    ("typed", "parsed"),
    [
        (["--methods", "a", "b"], ["--methods", "a", "--methods", "b"]),
        (["--methods", "a,b"], ["--methods", "a", "--methods", "b"]),
        (["--methods", "a", "--methods", "b"], ["--methods", "a", "--methods", "b"]),
        (["--methods=a", "b"], ["--methods", "a", "--methods", "b"]),
        (
            ["--methods", "a, b".replace(" ", ""), "c", "-q"],
            ["--methods", "a", "--methods", "b", "--methods", "c", "-q"],
        ),
        (["--out", "x", "y"], ["--out", "x", "y"]),
        (
            ["--methods", "a", "--metrics", "m", "--out", "x"],
            ["--methods", "a", "--metrics", "m", "--out", "x"],
        ),
        (["--methods"], ["--methods"]),
        (["--methods", "--metrics", "m"], ["--methods", "--metrics", "m"]),
        (["--methods", "a", "--", "b"], ["--methods", "a", "--", "b"]),
    ],
)
def test_expand(typed: list[str], parsed: list[str]) -> None:
    assert expand(typed, NAMES) == parsed


def test_command_takes_names_separated_by_spaces() -> None:
    app = typer.Typer()

    @app.command(cls=HarmbenchCommand)
    def show(methods: Annotated[list[str] | None, typer.Option()] = None, out: str = "") -> None:
        typer.echo("|".join(methods or []) + f" {out}")

    result = CliRunner().invoke(app, ["--methods", "ddae", "combat", "cvae", "--out", "here"])
    assert result.output == "ddae|combat|cvae here\n"
    assert CliRunner().invoke(app, ["--methods"]).exit_code == 2
