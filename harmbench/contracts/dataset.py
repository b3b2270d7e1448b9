"""The plug-in contract of a data set: where a cohort comes from, and what truth it has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort, RowKey
from harmbench.progress import Progress


@dataclass(frozen=True)
class DatasetInfo:
    """What a data set says about itself.

    Attributes
    ----------
    name : str
        Registry name.
    label : str
        Name in tables and figures.
    summary : str
        One sentence: what it holds.
    license : str
        Under which terms.
    doi : str
        Its source, ``""`` where there is none.
    has_truth : bool
        Whether `Dataset.truth` answers.
    """

    name: str
    label: str
    summary: str
    license: str = ""
    doi: str = ""
    has_truth: bool = False


class Note(NamedTuple):
    """One sentence about how a data set was read; `harmbench check` and the report show it.

    Attributes
    ----------
    text : str
        The sentence.
    kind : {"notes", "read", "set_aside"}
        Whether it is worth knowing, says what was read (files, columns, units), or says what was
        set aside and why.
    """

    text: str
    kind: Literal["notes", "read", "set_aside"] = "notes"


class Sentences(NamedTuple):
    """The texts of notes by their kind."""

    notes: list[str]
    read: list[str]
    set_aside: list[str]


NOTE_KINDS = Sentences._fields
"""Also the keys of a run's config.json that hold these sentences."""


def by_kind(notes: Iterable[Note]) -> Sentences:
    """Return the texts of each kind of note, in their order."""
    kept = list(notes)
    return Sentences(*([note.text for note in kept if note.kind == kind] for kind in NOTE_KINDS))


class Dataset(ABC):
    """Base of every data set. Knobs are the constructor's keyword arguments."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Arguments set by the presets ``smoke``, ``standard`` and ``paper``; the user's own win."""
    notes: Sequence[Note] = ()
    """How the data were read; a data set that reads files fills it in `load`."""

    @property
    @abstractmethod
    def info(self) -> DatasetInfo:
        """What this data set says about itself."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Name of exactly these data: a hash of version and knobs, or of the files' bytes.

        Never of computed pixels, whose last bits differ between machines.
        """

    @property
    def reference_site(self) -> str | None:
        """The site that the data set declares as its reference, or None."""
        return None

    @property
    def probe_gate(self) -> tuple[str, float] | None:
        """A metric and the least value an adequate probe gives it on the unharmonized images.

        Known only where the marks of the sites are; below it all probe scores are "underfit".
        """
        return None

    def with_data_seed(self, seed: int) -> Self:
        """Return the data set with other subjects drawn; files hold no others, only the split."""
        return self

    @abstractmethod
    def load(self, progress: Progress | None = None) -> Cohort:
        """Return the whole cohort; the same rows in the same order at every call."""

    def truth(
        self, site: str, keys: Sequence[RowKey], clean: bool = False, draw: int = 0
    ) -> NDArray[np.float32]:
        """Return the named scans as they would be at `site`, where a simulator knows.

        Parameters
        ----------
        site : str
            Where the subjects are scanned.
        keys : sequence of RowKey
            Rows of the cohort.
        clean : bool
            Without noise and without the drift of the single scan.
        draw : int
            Which independent noisy rescan; metrics compare with 0, the oracle returns 1.

        Returns
        -------
        ndarray of float32, shape (len(keys), *shape)
        """
        raise NotImplementedError(f"{self.info.name} has no truth")

    def geometry(self, keys: Sequence[RowKey]) -> NDArray[np.float64] | None:
        """Return where the named rows lie in space, where the data set knows.

        Parameters
        ----------
        keys : sequence of RowKey
            Rows of the cohort.

        Returns
        -------
        ndarray of float64, shape (len(keys), 4, 4), or None
            Affines from pixel (i, j, 0) to mm to the right, anterior, superior.
        """
        return None
