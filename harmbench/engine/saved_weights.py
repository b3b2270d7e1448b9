"""Saved weights instead of a fit: found beside a method or given, taken up only where they fit.

Weights fit where method, parameters, data, split, reference site and method seed are those they
were trained with. So they never meet their fit subjects among those that are scored.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from harmbench.config import PluginSpec, RunConfig, build_method
from harmbench.contracts.dataset import Dataset
from harmbench.contracts.method import Harmonizer
from harmbench.data.splits import Split
from harmbench.engine.keys import Cell, CellId, digest
from harmbench.errors import HarmbenchError
from harmbench.training.cards import (
    CARD,
    Card,
    Recipe,
    differences,
    file_hashes,
    images_seen,
    plain,
    read_card,
)
from harmbench.training.precision import precision_of

FOLDER = "weights"
AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


@dataclass(frozen=True)
class Saved:
    """Weights on disk with their card.

    Attributes
    ----------
    folder : Path
        Holds ``card.json`` and what the method saved.
    card : Card
        What they are.
    origin : {"shipped", "given"}
        Found beside the method, or named by the user.
    """

    folder: Path
    card: Card
    origin: Literal["shipped", "given"]

    @cached_property
    def id(self) -> str:
        """Hash of the files.

        Raises
        ------
        HarmbenchError
            Where they are not those that the card names.
        """
        hashes = file_hashes(self.folder, self.card.files)
        wrong = [name for name, value in hashes.items() if value != self.card.files[name]]
        if wrong:
            raise HarmbenchError(
                f"{self.folder}: {', '.join(wrong)} is not the file that {CARD} names, perhaps a "
                "cut or pointer file; fetch it again, or train with --weights none"
            )
        return digest(sorted(hashes.items()))

    @property
    def name(self) -> str:
        """Name of the folder, with its parent's where that says only the seed."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if _is_seed(folder) else folder.name

    @property
    def facts(self) -> dict[str, Any]:
        """Where the fit came from, for the run folder."""
        card = self.card
        return {
            "origin": self.origin,
            "name": self.name,
            "images": card.images,
            "seconds": card.seconds,
            "device": card.device,
            "precision": card.precision or card.params.get("precision", ""),
            "params": card.params,
            "id": self.id,
        }

    def load(self, method: Harmonizer) -> Harmonizer:
        """Return the saved method; what only `harmonize` reads is taken from `method`."""
        loaded = type(method).load(self.folder)
        for name in type(method).inference:
            setattr(loaded, name, getattr(method, name))
        return loaded

    def __str__(self) -> str:
        seen = f"{self.card.images:,} images seen" if self.card.images else "images not counted"
        return f"{self.origin} weights {self.name} ({seen})"


@dataclass(frozen=True)
class Choice:
    """Whether a cell takes up saved weights.

    Attributes
    ----------
    saved : Saved or None
        The weights; None to train.
    reason : str
        Why it is trained.
    """

    saved: Saved | None
    reason: str = ""


def trained_here(method: Harmonizer, device: str) -> dict[str, Any]:
    """Return where the fit came from, as `Saved.facts`, for one made in the run itself."""
    return {
        "origin": "trained",
        "images": images_seen(method.history),
        "full_images": full_images(method),
        "precision": precision_of(method.params(), device),
    }


def full_images(method: Harmonizer) -> int:
    """Return how many images a training of full length sees: the default of ``images``, else 0."""
    length = inspect.signature(type(method)).parameters.get("images")
    return 0 if length is None or not isinstance(length.default, int) else length.default


def data_facts(
    config: RunConfig, dataset: Dataset, split: Split, reference_site: str
) -> dict[str, Any]:
    """Return the fields of a `Recipe` that all methods of a run share."""
    return {
        "data": _public(config.data),
        "fingerprint": dataset.fingerprint,
        "data_seed": config.data_seed,
        "split": digest(split.part.tolist())[:16],
        "reference_site": reference_site,
    }


def recipe(method: Harmonizer, seed: int, facts: dict[str, Any]) -> Recipe:
    """Return what weights of this method on these data are made from."""
    return Recipe(method=method.info.name, params=plain(method.params()), seed=seed, **facts)


def completed(held: AnyRecipe, method: Harmonizer) -> AnyRecipe:
    """Return a recipe with the defaults of arguments that the method has gained since.

    A new argument's default leaves a method what it was; otherwise every new option would make
    all weights useless that were trained before it.
    """
    known = inspect.signature(type(method)).parameters
    gained = {name: p.default for name, p in known.items() if p.default is not p.empty}
    return held.model_copy(update={"params": {**plain(gained), **held.params}})


def find(folder: Path, origin: Literal["shipped", "given"]) -> list[Saved]:
    """Return the weights in a folder and in its ``seed-*`` folders."""
    places = [folder, *sorted(p for p in folder.glob("seed-*") if p.is_dir())]
    return [Saved(p, read_card(p), origin) for p in places if (p / CARD).is_file()]


def shipped_with(method: Harmonizer) -> list[Saved]:
    """Return the weights in ``weights/<name>/`` beside the module of the method's class."""
    file = getattr(sys.modules.get(type(method).__module__), "__file__", None)
    if file is None:
        return []
    places = sorted(p for p in (Path(file).parent / FOLDER).glob("*") if p.is_dir())
    found = [saved for place in places for saved in find(place, "shipped")]
    return [saved for saved in found if saved.card.method == method.info.name]


def choose(cells: Sequence[Cell], config: RunConfig, facts: dict[str, Any]) -> dict[CellId, Choice]:
    """Decide for every cell whether it takes up saved weights.

    Parameters
    ----------
    cells : sequence of Cell
        Of the run; where they are cross-fitted, all are trained.
    config : RunConfig
        Its `weights` say what is asked for.
    facts : dict
        What `data_facts` returned.

    Raises
    ------
    HarmbenchError
        Where weights that the user named do not fit.
    """
    choices = {}
    for cell in cells:
        wish = config.weights.get(cell.spec.title, "auto")
        method = build_method(cell.spec)
        if wish == "none":
            choices[cell.id] = Choice(None, "--weights none")
        elif wish == "auto":
            choices[cell.id] = _shipped(cell, method, recipe(method, cell.seed, facts))
        else:
            asked = recipe(method, cell.seed, facts)
            choices[cell.id] = _given(cell, Path(wish), method, asked, config.seeds)
    return choices


def _shipped(cell: Cell, method: Harmonizer, asked: Recipe) -> Choice:
    found = shipped_with(method)
    if not found:
        return Choice(None, "no weights are shipped with it")
    if cell.fold:
        return Choice(None, "these data are cross-fitted")
    unlike = [differences(completed(saved.card, method), asked, _free(method)) for saved in found]
    fits = [saved for saved, gaps in zip(found, unlike, strict=True) if not gaps]
    if fits:
        return Choice(max(fits, key=lambda saved: saved.card.images))
    nearest = min(range(len(found)), key=lambda i: len(unlike[i]))
    return Choice(None, f"of shipped weights {found[nearest].name}, {'; '.join(unlike[nearest])}")


def _given(cell: Cell, folder: Path, method: Harmonizer, asked: Recipe, seeds: int) -> Choice:
    title = cell.spec.title
    if cell.fold:
        raise HarmbenchError(
            f"--weights {title}={folder}: these data are cross-fitted, so every method is fitted "
            f"several times and cannot use one set of weights; give {title}=none"
        )
    found = find(folder, "given") or [Saved(folder, read_card(folder), "given")]
    for saved in found:
        gaps = differences(completed(saved.card, method), asked, _free(method) | {"seed"})
        if gaps:
            raise HarmbenchError(
                f"--weights {title}={folder} does not fit this run: {'; '.join(gaps)}. Give the "
                f"settings that it was trained with (see its {CARD}), or {title}=none to train"
            )
    of_seed = {saved.card.seed: saved for saved in reversed(found)}
    if not any(seed in of_seed for seed in range(seeds)):
        raise HarmbenchError(
            f"--weights {title}={folder} holds seed {', '.join(map(str, sorted(of_seed)))} and "
            f"this run asks for {seeds} from 0 on; raise --seeds, or train the seeds that it needs"
        )
    if cell.seed in of_seed:
        return Choice(of_seed[cell.seed])
    return Choice(None, f"{folder.name} holds no seed {cell.seed}")


def _free(method: Harmonizer) -> frozenset[str]:
    return type(method).budget | type(method).inference


def _is_seed(folder: Path) -> bool:
    return folder.name.startswith("seed-")


def _public(spec: PluginSpec) -> dict[str, Any]:
    """Return a data set's name and arguments without the folders of this machine."""

    def last(value: Any) -> Any:
        absolute = isinstance(value, str) and Path(value).is_absolute()
        return Path(value).name if absolute else value

    return {"name": last(spec.name), "params": {k: last(v) for k, v in plain(spec.params).items()}}
