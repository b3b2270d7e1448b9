"""The plug-in contract of a data set: it loads a cohort and may know the truth."""

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
    """Description of a data set.

    Attributes
    ----------
    name : str
        Registry name.
    label : str
        Name in tables and figures.
    summary : str
        One sentence that describes the content.
    license : str
        License of the data.
    doi : str
        DOI of its source, ``""`` if there is none.
    has_truth : bool
        Whether `Dataset.truth` is implemented.
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
        ``"read"``: what was read (files, columns, units). ``"set_aside"``: what was set aside and
        why. ``"notes"``: other information.
    """

    text: str
    kind: Literal["notes", "read", "set_aside"] = "notes"


class Sentences(NamedTuple):
    """The texts of notes, grouped by kind."""

    notes: list[str]
    read: list[str]
    set_aside: list[str]


NOTE_KINDS = Sentences._fields
"""Kinds of notes; also the keys of a run's config.json that contain these sentences."""


def by_kind(notes: Iterable[Note]) -> Sentences:
    """Return the texts of the notes of each kind, in their original order."""
    kept = list(notes)
    return Sentences(*([note.text for note in kept if note.kind == kind] for kind in NOTE_KINDS))


class Dataset(ABC):
    """Base class of all data sets. Options are the constructor's keyword arguments."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Arguments set by the presets ``smoke``, ``standard`` and ``paper``; the user's values
    have priority."""
    cached: ClassVar[bool] = False
    """Whether making it costs so much time that it is kept for the whole machine."""
    notes: Sequence[Note] = ()
    """Notes on how the data were read; a data set that reads files sets them in `load`."""
    feature_names: Sequence[str] = ()
    """Names of the features of a table, in the order of its columns, known after `load`."""

    @property
    @abstractmethod
    def info(self) -> DatasetInfo:
        """Description of this data set."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifier of exactly these data: a hash of version and options, or of the files' bytes.

        Do not hash computed pixels, because their last bits differ between machines.
        """

    @property
    def reference_site(self) -> str | None:
        """The site that the data set declares as its reference, or None."""
        return None

    @property
    def probe_gate(self) -> tuple[str, float] | None:
        """A metric and its smallest value on unharmonized images for which a probe is adequate.

        None if the strength of the site effects is not known. If the value is smaller, all scores
        of probes get the note "underfit".
        """
        return None

    def with_data_seed(self, seed: int) -> Self:
        """Return the data set for another data seed.

        A simulator draws other subjects. Files have no other subjects, so only the split changes.
        """
        return self

    @abstractmethod
    def load(self, progress: Progress | None = None) -> Cohort:
        """Return the whole cohort, with the same rows in the same order at every call."""

    def truth(
        self, site: str, keys: Sequence[RowKey], clean: bool = False, draw: int = 0
    ) -> NDArray[np.float32]:
        """Return the given scans as they would be at `site`. Only a simulator knows this.

        Parameters
        ----------
        site : str
            Site at which the subjects are scanned.
        keys : sequence of RowKey
            Rows of the cohort.
        clean : bool
            Whether to leave out noise and the drift of the single scan.
        draw : int
            Number of the independent noisy rescan; metrics compare with 0, the oracle returns 1.

        Returns
        -------
        ndarray of float32, shape (len(keys), *shape)

        Raises
        ------
        NotImplementedError
            If the data set has no truth.
        """
        raise NotImplementedError(f"{self.info.name} has no truth")

    def geometry(self, keys: Sequence[RowKey]) -> NDArray[np.float64] | None:
        """Return the positions of the given rows in space, or None if they are not known.

        Parameters
        ----------
        keys : sequence of RowKey
            Rows of the cohort.

        Returns
        -------
        ndarray of float64, shape (len(keys), 4, 4), or None
            Affines from pixel (i, j, 0) to mm in right, anterior, superior direction.
        """
        return None
