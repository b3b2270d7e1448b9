"""The run folder, the only state of a run: its parts, completion marks, one driver."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harmbench.contracts.cohort import Cohort, Space
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import (
    LOCK,
    UNFINISHED,
    held,
    read_csv,
    read_json,
    read_rows,
    sweep,
    write_atomic,
    write_json,
    write_rows,
)
from harmbench.files.blocks import pieces

SCORE_COLUMNS = [
    "method",
    "label",
    "seed",
    "metric",
    "metric_version",
    "group",
    "value",
    "ci_low",
    "ci_high",
    "target",
    "n",
    "status",
    "reason",
]

OWN_FILES = (LOCK, "run.log")
"""What may lie in a folder before it holds a run."""


class Stage:
    """One finished or unfinished piece of work: payload files and, written last, its mark.

    Parameters
    ----------
    stem : Path
        ``<folder>/<name>-<first 8 digits of the key>``; the files are ``stem.json`` (the mark),
        ``stem.npy``, ``stem.npz``, ``stem.csv``, and for models the folder ``stem/``.
    key : str
        Hash of all that the result depends on.
    """

    def __init__(self, folder: Path, name: str, key: str) -> None:
        self.key = key
        self.stem = folder / f"{name}-{key[:8]}"

    def file(self, suffix: str) -> Path:
        """Path of the payload with this suffix, such as ``".npy"``."""
        return self.stem.with_name(self.stem.name + suffix)

    @property
    def mark(self) -> dict[str, Any] | None:
        """What was written when the stage was completed; None while it is not."""
        try:
            content = read_json(self.file(".json"))
        except (OSError, ValueError):
            return None
        return content if content.get("key") == self.key else None

    def complete(self, **facts: Any) -> dict[str, Any]:
        """Declare the stage finished, with facts such as its seconds."""
        content = {"key": self.key, **facts}
        write_json(self.file(".json"), content)
        return content

    def write_folder(self, write: Callable[[Path], None]) -> None:
        """Let `write` fill a temporary folder, then rename it to the stage's own."""
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self.stem.parent))
        try:
            write(temporary)
            temporary.chmod(0o755)
            temporary.rename(self.stem)
        except OSError:
            # Somebody else finished the same content first; anything else is a real failure.
            if not self.stem.is_dir():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _is_own(name: str) -> bool:
    return name in OWN_FILES or name.startswith(UNFINISHED)


class RunFolder:
    """A folder that holds one run: its settings, data, stages, tables and report.

    Parameters
    ----------
    root : Path
        The folder; need not exist yet.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    # -- identity -----------------------------------------------------------------------------

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Check that the folder is new, empty, or already holds this run; write nothing.

        Raises
        ------
        HarmbenchError
            Where the folder holds another run (naming each difference) or other files.
        """
        if self.config_file.is_file():
            self._check_identity(identity)
            return
        if self.root.is_file():
            raise HarmbenchError(f"--out {self.root} is a file; give a folder")
        if self.root.is_dir() and any(not _is_own(p.name) for p in self.entries()):
            raise HarmbenchError(
                f"--out {self.root} holds files that are not a run's; give an empty or a new folder"
            )

    def entries(self) -> list[Path]:
        """What lies in the folder."""
        return sorted(self.root.iterdir())

    def require_there(self) -> None:
        """Refuse to go on where somebody has moved or deleted the folder in the meantime.

        Raises
        ------
        HarmbenchError
            Where its settings are gone; what is computed would lie in a folder that holds no run.
        """
        if not self.config_file.is_file():
            raise HarmbenchError(
                f"{self.root} was moved or deleted while its run was at work; "
                "move it back, or run again"
            )

    def _check_identity(self, identity: Mapping[str, Any]) -> None:
        try:
            held = read_json(self.config_file)["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise HarmbenchError(
                f"--out {self.root} holds a config.json that cannot be read; give another folder"
            ) from error
        differences = [
            f"{name} is {held.get(name)!r} there and {value!r} here"
            for name, value in identity.items()
            if held.get(name) != value
        ]
        if differences:
            raise HarmbenchError(
                f"--out {self.root} holds another run: {'; '.join(differences)}. "
                "Give another folder with --out, or repeat the run's own settings"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one driver, swept of what a killed one was writing when it died.

        Raises
        ------
        HarmbenchError
            Where another process holds it.
        """
        with held(self.root, "run"):
            sweep(self.root.rglob(f"{UNFINISHED}*"))
            yield

    @contextmanager
    def tidied(self) -> Iterator[None]:
        """Leave no trace in a folder where a run ended before it had any data to keep."""
        try:
            yield
        except HarmbenchError:
            if self.root.is_dir() and not self.config_file.exists():
                (self.root / "run.log").unlink(missing_ok=True)
                (self.root / LOCK).unlink(missing_ok=True)
                if not self.entries():
                    self.root.rmdir()
            raise

    # -- settings -----------------------------------------------------------------------------

    @property
    def config_file(self) -> Path:
        """Settings and identity of the run."""
        return self.root / "config.json"

    @property
    def config(self) -> dict[str, Any]:
        """The settings as stored.

        Raises
        ------
        HarmbenchError
            Where the folder holds no run.
        """
        if not self.config_file.is_file():
            raise HarmbenchError(f"{self.root} holds no run: there is no config.json in it")
        return read_json(self.config_file)

    def table(self, name: str) -> Any:
        """Return ``<name>.json``: ``metrics``, ``methods``, ``cells`` or ``environment``."""
        return read_json(self.root / f"{name}.json")

    # -- data ---------------------------------------------------------------------------------

    def save_cohort(
        self, cohort: Cohort, split: pd.DataFrame, check: Callable[[], None] = lambda: None
    ) -> None:
        """Write images, masks, participants and split; the split last, as the mark.

        Before it, `check` raises what must stop it: mapped images are only read here.
        """
        folder = self.root / "data"
        write_cohort(folder, cohort)
        check()
        _write_csv(folder / "split.csv", split)

    @property
    def has_cohort(self) -> bool:
        """Whether `save_cohort` was completed."""
        return (self.root / "data" / "split.csv").is_file()

    def cohort(self) -> Cohort:
        """Return the stored cohort, its images memory-mapped."""
        return read_cohort(self.root / "data", self.config["space"])

    def split(self) -> pd.DataFrame:
        """Return the split: one row an image, its part in column ``part``."""
        return _read_csv(self.root / "data" / "split.csv")

    # -- results ------------------------------------------------------------------------------

    def write_scores(self, scores: pd.DataFrame, timing: pd.DataFrame) -> None:
        """Write ``scores.csv`` (sorted, without times) and ``timing.csv``."""
        order = ["method", "label", "seed", "metric", "group"]
        _write_csv(self.root / "scores.csv", scores[SCORE_COLUMNS].sort_values(order))
        _write_csv(self.root / "timing.csv", timing)

    def scores(self) -> pd.DataFrame:
        """Return ``scores.csv``."""
        path = self.root / "scores.csv"
        if not path.is_file():
            raise HarmbenchError(f"{self.root} holds no scores yet; let its run finish first")
        table = read_csv(path, ["method", "label", "metric", "group", "status", "reason"])
        return table.fillna({"reason": ""})


def failures(scores: pd.DataFrame) -> list[str]:
    """Return one sentence for each thing that failed."""
    failed = scores[scores["status"] == "failed"]
    pairs = dict.fromkeys(zip(failed["label"], failed["reason"], strict=True))
    return [f"{label}: {reason}" for label, reason in pairs]


# -- cohorts on disk ------------------------------------------------------------------------------


def write_cohort(folder: Path, cohort: Cohort) -> None:
    """Write images, masks and participants."""
    for name, array in {"images": cohort.images, "mask": cohort.mask}.items():
        write_rows(folder / f"{name}.npy", array.shape, array.dtype, pieces(array))
    _write_csv(folder / "participants.csv", cohort.participants)


def read_cohort(folder: Path, space: Space = "slice") -> Cohort:
    """Return a cohort that `write_cohort` wrote, its images memory-mapped."""
    return Cohort(
        images=read_rows(folder / "images.npy"),
        participants=_read_csv(folder / "participants.csv"),
        mask=read_rows(folder / "mask.npy"),
        space=space,
    )


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_atomic(path, lambda p: table.to_csv(p, index=False))


def _read_csv(path: Path) -> pd.DataFrame:
    table = read_csv(path, ["participant_id", "session_id", "site", "sex", "part"])
    for name in table.columns.intersection(["session_id"]):
        table[name] = table[name].fillna("")
    if "age" in table:
        table["age"] = pd.to_numeric(table["age"], errors="coerce")
    if "sex" in table:
        table["sex"] = table["sex"].where(table["sex"] != "", np.nan)
    return table
