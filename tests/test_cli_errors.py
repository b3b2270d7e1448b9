"""What the command line says of errors that are nobody's bug."""

import errno

import pytest
import typer

from harmbench import cli


@pytest.mark.parametrize(
    ("number", "path", "code", "says"),
    [
        (errno.ENOSPC, None, 2, "no space is left on the disk; free some"),
        (errno.ENOSPC, "runs/a.npy", 2, "at runs/a.npy"),
        (errno.EROFS, "runs", 2, "no right to write or read at runs"),
        (errno.EIO, "runs", 1, "a bug; --debug shows where"),
    ],
)
def test_a_full_or_closed_disk_is_no_bug(
    number: int,
    path: str | None,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def app() -> None:
        raise OSError(number, "as the system says", path)

    monkeypatch.setattr("harmbench.cli.app.app", app)
    monkeypatch.setattr("sys.argv", ["harmbench", "run"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("through_typer", [False, True])
def test_a_ctrl_c_that_no_command_answers_is_not_silent(
    through_typer: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    app = typer.Typer()
    app.command()(interrupted)
    monkeypatch.setattr("harmbench.cli.app.app", app if through_typer else interrupted)
    monkeypatch.setattr("sys.argv", ["harmbench"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert "the same command goes on where it was" in capsys.readouterr().err
