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
    """What a method says about itself; tables, the runner and the report read it.

    Attributes
    ----------
    name : str
        Registry name.
    label : str
        Name in tables and figures.
    summary : str
        One sentence: what it does.
    doi : str
        DOI or arXiv id of its source, ``""`` where there is none.
    fit_sees, harmonize_sees : frozenset of str
        Columns of the participants table it is given when it is fitted and when it harmonizes; the
        runner drops all others. Identifiers are always there. ``"truth"`` in either one asks for
        the simulator's answer (controls only; such a method is marked in every table).
    targets : {"any", "fit"}
        Whether it can render to any site of the fit (and so to an image's own) or only to the
        reference site it was fitted with.
    spaces : frozenset of str
        The kinds of cohort it works on.
    stochastic : bool
        Whether the method seed matters; a method for which it does not is fitted once.
    control : bool
        Whether it is a control, chosen by ``--controls``, not a contender.
    images_only : bool
        Whether it holds images made elsewhere, at the reference site, and can make no others:
        metrics that need those are skipped.
    own_background : bool
        Whether the runner puts back, outside each scan's own mask, the image as it came. False for
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
        """Whether it is given the simulator's answer."""
        return "truth" in self.fit_sees | self.harmonize_sees


@dataclass(frozen=True)
class ApplyContext:
    """What harmonizing may use besides the images.

    Attributes
    ----------
    seed : int
        For any randomness; the result of image i must not depend on the others.
    device : str
        Such as ``"cpu"`` or ``"cuda"``.
    threads : int
        CPU threads to use.
    progress : Progress
        Where long work reports how far it is.
    log : logging.Logger
        Goes to the cell's log file.
    truth : callable or None
        The simulator's answer, only where the method declares ``"truth"``.
    """

    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    progress: Progress = field(default_factory=Progress)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("harmbench"))
    truth: Truth | None = None


@dataclass(frozen=True)
class FitContext(ApplyContext):
    """What fitting may use besides the images: all of `ApplyContext` and what stands here.

    Attributes
    ----------
    reference_site : str
        The site to harmonize to.
    validation : sequence of RowKey
        Rows of the cohort, whole subjects, to stop or select on (10 % of the fit subjects, drawn
        by the method seed); a method that needs none may fit on all rows.
    checkpoints : Path or None
        Folder where training may keep its state, to go on after an interruption.
    """

    reference_site: str = ""
    validation: Sequence[RowKey] = ()
    checkpoints: Path | None = None


class Harmonizer(ABC):
    """Base of every method. Hyper-parameters are the constructor's keyword arguments.

    A constructor only stores its arguments, under their own names (as in scikit-learn), so that
    `params` can read them back. A variant is an argument, never a copied class.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """Arguments set by the presets ``smoke``, ``standard`` and ``paper``; the user's own win."""

    budget: ClassVar[frozenset[str]] = frozenset()
    """Arguments that only say how long or on what hardware to train: saved weights are taken up
    whatever their values."""

    inference: ClassVar[frozenset[str]] = frozenset()
    """Arguments that only `harmonize` reads: saved weights take the values asked for."""

    @property
    @abstractmethod
    def info(self) -> MethodInfo:
        """What this instance says about itself; a variant may see less than the class's default."""

    @abstractmethod
    def fit(self, cohort: Cohort, context: FitContext) -> Self:
        """Learn from the fit part; sees the columns in ``info.fit_sees``. Returns itself."""

    @abstractmethod
    def harmonize(
        self, cohort: Cohort, target: str | None = None, *, context: ApplyContext
    ) -> NDArray[np.float32]:
        """Return the images as if scanned at `target`.

        Parameters
        ----------
        cohort : Cohort
            Sees the columns in ``info.harmonize_sees``.
        target : str or None
            A site of the fit; None means the reference site; ``"own"`` renders each image back to
            its own site (only where ``info.targets == "any"``).
        context : ApplyContext
            Seed, device, threads, progress, log.

        Returns
        -------
        ndarray of float32, shape (n, *shape)
            Finite, in the order of the rows. Values outside [0, 1] are allowed and reported.
        """

    def save(self, folder: Path) -> None:
        """Write what was learned into `folder`: safetensors and JSON, see `harmbench.files.models`.

        By default all attributes: arrays, numbers, text, and lists and dicts of these.

        Raises
        ------
        HarmbenchError
            For an attribute of another kind; such a method overrides `save` and `load`.
        """
        from harmbench.files.models import save_state

        params = self.params()
        learned = {name: value for name, value in vars(self).items() if name not in params}
        save_state(folder, learned, params)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read back what `save` wrote. Nothing is ever unpickled."""
        from harmbench.files.models import load_state

        state, params = load_state(folder)
        method = cls(**params)
        vars(method).update(state)
        return method

    def skip(self, cohort: Cohort) -> str | None:
        """Return why this method cannot run on this cohort, or None where it can."""
        if cohort.space not in self.info.spaces:
            return f"works on {', '.join(sorted(self.info.spaces))} images, not on {cohort.space}"
        return None

    @property
    def history(self) -> dict[str, NDArray[Any]]:
        """Training curve: ``"images"`` seen and, of as many points, the parts of the loss.

        Empty for a method that is not trained in steps. `save` and `load` keep it; saved as arrays
        ``history.<name>``, it is drawn in the report.
        """
        return {}

    def params(self) -> dict[str, Any]:
        """Return the constructor's arguments as this instance holds them."""
        import inspect

        # Of the class, not of __init__, which shows (*args, **kwargs) where a class has none.
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
