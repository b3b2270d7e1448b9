"""The plug-in contract of a method: what a harmonizer declares, learns and returns."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from harmbench.contracts.cohort import Cohort, RowKey, Space
from harmbench.progress import Progress

OWN_SITE = "own"

Truth = Callable[..., NDArray[np.float32]]
"""``truth(site, keys, clean=False, draw=0)``: see `harmbench.contracts.dataset.Dataset.truth`."""


@dataclass(frozen=True)
class MethodInfo:
    """Description of a method, for tables, the runner and the report.

    Attributes
    ----------
    name : str
        Registry name.
    label : str
        Name in tables and figures.
    summary : str
        One sentence that describes what the method does.
    doi : str
        DOI or arXiv id of its source, ``""`` if there is none.
    fit_sees, harmonize_sees : frozenset of str
        Columns of the participants table that the method receives when it is fitted and when it
        harmonizes. The runner drops all others except the identifiers. ``"truth"`` in either set
        requests the simulator's truth (controls only; every table marks such a method).
    targets : {"any", "fit"}
        Whether it can render images at any site of the fit, including an image's own site, or
        only at the reference site that it was fitted with.
    spaces : frozenset of str
        Kinds of cohort that it works on.
    stochastic : bool
        Whether the result depends on the method seed. If not, the method is fitted only once.
    control : bool
        Whether it is a control, selected by ``--controls``.
    images_only : bool
        Whether it only returns stored images, harmonized to the reference site by an external
        program. Metrics that need other images are skipped.
    own_background : bool
        Whether the runner restores the original image outside each scan's own mask. False for
        controls that return another image, with another mask.
    """

    name: str
    label: str
    summary: str
    doi: str = ""
    fit_sees: frozenset[str] = frozenset({"site"})
    harmonize_sees: frozenset[str] = frozenset({"site"})
    targets: Literal["any", "fit"] = "fit"
    spaces: frozenset[Space] = frozenset({"slice"})
    stochastic: bool = False
    control: bool = False
    images_only: bool = False
    own_background: bool = True

    @property
    def sees_truth(self) -> bool:
        """Whether the method receives the simulator's truth."""
        return "truth" in self.fit_sees | self.harmonize_sees


@dataclass(frozen=True)
class ApplyContext:
    """What a method may use in addition to the images when it harmonizes.

    Attributes
    ----------
    seed : int
        Seed of all random numbers. The result for one image must not depend on the others.
    device : str
        Device name, such as ``"cpu"`` or ``"cuda"``.
    threads : int
        Number of CPU threads to use.
    progress : Progress
        Receives the progress of long computations.
    log : logging.Logger
        Writes to the cell's log file.
    truth : callable or None
        The simulator's truth, only if the method declares ``"truth"``.
    """

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    progress: Progress = field(default_factory=Progress)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("harmbench"))
    truth: Truth | None = None


@dataclass(frozen=True)
class FitContext(ApplyContext):
    """What a method may use in addition to the images when it is fitted.

    It has all attributes of `ApplyContext`.

    Attributes
    ----------
    reference_site : str
        Site to harmonize to.
    validation : sequence of RowKey
        Rows of the cohort for early stopping or model selection: all rows of 10 % of the fit
        subjects, drawn with the method seed. A method that does not need them may fit on all rows.
    checkpoints : Path or None
        Folder for the state of a training, so that it can continue after an interruption.
    """

    reference_site: str = ""
    validation: Sequence[RowKey] = ()
    checkpoints: Path | None = None


class Harmonizer(ABC):
    """Base class of all methods. Hyperparameters are the constructor's keyword arguments.

    A constructor only stores its arguments, under their own names (as in scikit-learn), so that
    `params` can read them back. Variants of a method differ in an argument, not in the class.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Arguments set by the presets ``smoke``, ``standard`` and ``paper``; the user's values
    have priority."""

    budget: ClassVar[frozenset[str]] = frozenset()
    """Arguments that only set how long or on what hardware to train. Saved weights are used for any
    values of them."""

    inference: ClassVar[frozenset[str]] = frozenset()
    """Arguments that only `harmonize` reads. With saved weights they take the requested values."""

    @property
    @abstractmethod
    def info(self) -> MethodInfo:
        """Description of this instance. A variant may declare fewer columns than the default."""

    @abstractmethod
    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn from the fit part of a cohort.

        Parameters
        ----------
        cohort : Cohort
            The fit part, with the columns in ``info.fit_sees``.
        context : FitContext
            Reference site, validation rows, seed, device, threads, progress, log.

        Returns
        -------
        Harmonizer
            The method itself.
        """

    @abstractmethod
    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the images as if scanned at `target`.

        Parameters
        ----------
        cohort : Cohort
            Images to harmonize, with the columns in ``info.harmonize_sees``.
        target : str or None
            A site of the fit. None is the reference site. ``"own"`` renders each image at its own
            site (only if ``info.targets == "any"``).
        context : ApplyContext
            Seed, device, threads, progress, log.

        Returns
        -------
        ndarray of float32, shape (n, *shape)
            Finite values, in the order of the rows. Values outside [0, 1] are allowed and
            reported.
        """

    def save(self, folder: Path) -> None:
        """Write the fitted state to `folder` as safetensors and JSON.

        By default this saves all attributes: arrays, numbers, text, and lists and dicts of these.
        See `harmbench.files.models`.

        Raises
        ------
        HarmbenchError
            If an attribute has another type. Such a method must override `save` and `load`.
        """
        from harmbench.files.models import save_state

        params = self.params()
        learned = {name: value for name, value in vars(self).items() if name not in params}
        save_state(folder, learned, params)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Return the method that `save` wrote. Nothing is ever unpickled."""
        from harmbench.files.models import load_state

        state, params = load_state(folder)
        method = cls(**params)
        vars(method).update(state)
        return method

    def skip(self, cohort: Cohort) -> str | None:
        """Return the reason why this method cannot run on this cohort, or None if it can."""
        if cohort.space not in self.info.spaces:
            return f"works on {', '.join(sorted(self.info.spaces))} images, not on {cohort.space}"
        return None

    @property
    def history(self) -> dict[str, NDArray[Any]]:
        """Training curve: ``"images"`` seen, and the parts of the loss at the same points.

        It is empty for a method that is not trained in steps. `save` and `load` keep it. The
        report plots it if it is saved as arrays ``history.<name>``.
        """
        return {}

    def params(self) -> dict[str, Any]:
        """Return the values of the constructor's arguments of this instance."""
        import inspect

        # Of the class, not of __init__, which shows (*args, **kwargs) where a class has none.
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
