"""What the command line says of errors that are nobody's bug."""

import errno
import subprocess
import sys

import pytest

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


PROGRAM = """
import atexit, sys, typer
import harmbench.cli.app
from harmbench import cli


class Slow:
    def __del__(self):
        print("cleared up")


def command():
    {command}


app = typer.Typer()
app.command()(command)
harmbench.cli.app.app = {app}
atexit.register(print, "at exit")
sys.argv = ["harmbench"]
slow = Slow()
cli.main()
"""


@pytest.mark.parametrize(
    ("command", "app", "says"),
    [
        ("raise KeyboardInterrupt", "app", "the same command goes on where it was"),
        ("raise KeyboardInterrupt", "command", "the same command goes on where it was"),
        ("raise typer.Exit(130)", "app", ""),
    ],
)
def test_a_ctrl_c_is_not_silent_and_waits_for_no_clearing_up(
    command: str, app: str, says: str
) -> None:
    """A command that answers it by itself has said so already."""
    program = [sys.executable, "-c", PROGRAM.format(command=command, app=app)]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 130
    assert says in ended.stderr and bool(says) == bool(ended.stderr)
    assert ended.stdout == "at exit\n"
