"""Where a driver and its workers meet: a hidden folder of the run, there while they work.

Plain files, so that it serves processes of one machine and of many, and a process that is killed
leaves nothing that another one waits for.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = ".jobs"
CLAIMS = "claims"
SECONDS_TO_SEE = 10.0
"""How long a folder that was made on one machine may take to show on another one."""
SECONDS_BETWEEN_TRIES = 0.1
SECONDS_BETWEEN_LOOKS = 5.0
"""How often one that waits for another looks whether the driver is still there."""


class Closed(BaseException):
    """The driver has gone; no error, so that no method and no metric takes it for its own."""


@dataclass(frozen=True)
class Board:
    """Notes of who does what, and claims, so that nothing is done by two at once.

    Attributes
    ----------
    root : Path
        The run folder.
    token : str
        Name of this driver's board.
    """

    root: Path
    token: str

    @property
    def folder(self) -> Path:
        """Where the notes lie."""
        return self.root / FOLDER / self.token

    @property
    def is_open(self) -> bool:
        """Whether the driver is at work, as far as this process sees."""
        return self.folder.is_dir()

    def shows(self) -> bool:
        """Return whether this process sees the board, after a while of waiting for it."""
        end = time.monotonic() + SECONDS_TO_SEE
        while not self.is_open:
            if time.monotonic() > end:
                return False
            time.sleep(SECONDS_BETWEEN_TRIES)
        return True

    def put(self, name: str, note: Mapping[str, Any]) -> None:
        """Say what the worker `name` does.

        Raises
        ------
        Closed
            Where the driver has gone.
        """
        # Not `files.write_atomic`, which would make the folder anew.
        temporary = self.folder / f".{name}"
        try:
            temporary.write_text(json.dumps(note), encoding="utf-8")
            temporary.replace(self.folder / f"{name}.json")
        except FileNotFoundError as error:
            raise Closed from error
        except OSError:  # a full disk, most often: a note is not worth a cell
            temporary.unlink(missing_ok=True)

    def take(self, name: str) -> None:
        """Take the worker's note down."""
        (self.folder / f"{name}.json").unlink(missing_ok=True)

    def notes(self) -> dict[str, dict[str, Any]]:
        """Return all notes, by worker."""
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            try:
                found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # taken down at this moment
                continue
        return found

    @contextmanager
    def claim(self, key: str) -> Iterator[None]:
        """Hold what `key` stands for, after whoever holds it; the death of a process frees it.

        Raises
        ------
        Closed
            Where the driver has gone.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self.root / FOLDER / CLAIMS / f"{key}.lock")
        while True:
            if not self.is_open:
                raise Closed
            try:
                lock.acquire(timeout=SECONDS_BETWEEN_LOOKS, poll_interval=SECONDS_BETWEEN_TRIES)
                break
            except Timeout:
                continue
        try:
            yield
        finally:
            lock.release()


def take_down(root: Path) -> None:
    """Remove the boards that killed drivers have left; their workers stop at their next step."""
    shutil.rmtree(root / FOLDER, ignore_errors=True)


@contextmanager
def opened(root: Path) -> Iterator[Board]:
    """Open a board for the driver of a run, in place of those that killed ones have left.

    Claims outlast a driver that was stopped: a worker of a cluster may still be at its last stage,
    and the next driver's wait for it.
    """
    top = root / FOLDER
    (top / CLAIMS).mkdir(parents=True, exist_ok=True)
    for left in top.iterdir():
        if left.name != CLAIMS:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="driver-", dir=top))
    folder.chmod(0o755)
    try:
        yield Board(root, folder.name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # claims are left
            (top / CLAIMS).rmdir()
            top.rmdir()
        raise
    shutil.rmtree(top, ignore_errors=True)
