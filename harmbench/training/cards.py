"""The card of saved weights: ``card.json`` for programs and ``README.md`` for people."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tabulate import tabulate

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_json, write_text

CARD = "card.json"
README = "README.md"
CURVE_POINTS = 100
README_POINTS = 10


class Recipe(BaseModel):
    """What weights are made from. Weights with another recipe never replace a fit.

    Attributes
    ----------
    method : str
        Name in the method's info.
    params : dict
        All arguments of its constructor, as JSON values.
    data : dict
        Name and arguments of the data set without folders. It is not compared, since the
        fingerprint identifies the data.
    fingerprint : str
        Fingerprint of the data set.
    data_seed : int
        Seed of the split.
    split : str
        Hash of the part of every row.
    reference_site : str
        Site to which images are harmonized.
    seed : int
        Seed of the method.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str = Field(min_length=1)
    params: dict[str, Any]
    data: dict[str, Any]
    fingerprint: str
    data_seed: int
    split: str
    reference_site: str
    seed: int


class Card(Recipe):
    """A recipe and the training that followed it.

    Attributes
    ----------
    label, command : str
        Title of the method in tables, and the command that made the weights.
    data_label, data_license : str
        Label and license in the info of the data set.
    n_fit : int
        Number of images of the fit part, with those for validation.
    images : int
        Images seen in training; 0 for a method that is not trained in steps.
    seconds : float
        Duration of the training without interruptions.
    device, threads : str, int
        Device and CPU threads after the last start.
    precision : str
        Precision of the training, such as ``"bf16-mixed"``; ``""`` for a method without a choice.
    versions : dict of str to str
        Versions of harmbench, torch, numpy and Python.
    history : dict of str to list
        Training curve with at most `CURVE_POINTS` points.
    files : dict of str to str
        SHA-256 of every saved file.
    """

    label: str
    command: str
    data_label: str
    data_license: str
    n_fit: int
    images: int
    seconds: float
    device: str
    threads: int
    precision: str = ""
    versions: dict[str, str]
    history: dict[str, list[int | float | None]]
    files: dict[str, str]

    @property
    def recipe(self) -> Recipe:
        """The part that is compared with other recipes."""
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})

    def write(self, folder: Path) -> None:
        """Write the page, then the card, whose presence shows that the folder is complete."""
        write_text(folder / README, page(self))
        write_json(folder / CARD, self.model_dump(mode="json"))


def read_card(folder: Path) -> Card:
    """Return the card of saved weights.

    Raises
    ------
    HarmbenchError
        If there is no card or it cannot be read.
    """
    path = Path(folder) / CARD
    try:
        card = Card.model_validate_json(path.read_bytes())
    except OSError as error:
        raise HarmbenchError(
            f"{folder} holds no saved weights: there is no {CARD} in it; give a folder that "
            "`harmbench train` has finished"
        ) from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "its syntax"
        raise HarmbenchError(f"{path} cannot be read as a card ({where})") from error
    for name in card.files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise HarmbenchError(f"{path} names {name!r}, which is not in its folder")
    return card


def plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as JSON stores them, such that a tuple equals a stored list."""
    return json.loads(json.dumps(dict(params), default=str))


def differences(held: Recipe, asked: Recipe, ignore: Collection[str] = ()) -> list[str]:
    """Describe the differences between two recipes, those of the data first.

    Parameters
    ----------
    held, asked : Recipe
        The recipe of the weights and the recipe that is needed.
    ignore : collection of str
        Parameters that may differ, or ``"seed"``.

    Returns
    -------
    list of str
        Such as ``"seed is 0 there and 1 here"``; empty if the weights can be used.
    """
    pairs = [
        (name, getattr(held, name), getattr(asked, name))
        for name in ("method", "fingerprint", "split", "reference_site", "seed")
        if name not in ignore
    ]
    for name in sorted({*held.params, *asked.params} - set(ignore)):
        both = [recipe.params.get(name, "(absent)") for recipe in (held, asked)]
        pairs.append((name, *both))
    nouns = {"fingerprint": "data fingerprint", "reference_site": "reference site"}
    return [
        f"{nouns.get(name, name)} is {there!r} there and {here!r} here"
        for name, there, here in pairs
        if there != here
    ]


def thinned(history: Mapping[str, NDArray[Any]]) -> dict[str, list[int | float | None]]:
    """Return a training curve with at most `CURVE_POINTS` points, among them the first and last."""
    n = len(next(iter(history.values()), ()))
    rows = _evenly(n, min(n, CURVE_POINTS))
    return {
        name: [v if np.isfinite(v) else None for v in np.asarray(values)[rows].tolist()]
        for name, values in history.items()
    }


def _evenly(n: int, points: int) -> NDArray[np.int_]:
    return np.unique(np.linspace(0, n - 1, points).round().astype(int))


def images_seen(history: Mapping[str, NDArray[Any]]) -> int:
    """Return how many images a training has seen, 0 if its curve does not say so."""
    images = history.get("images")
    return 0 if images is None or not len(images) else int(images[-1])


def file_hashes(folder: Path, names: Collection[str] | None = None) -> dict[str, str]:
    """Return the SHA-256 of the named files in a folder, or of all its files, by name.

    Raises
    ------
    HarmbenchError
        If a named file is missing.
    """
    if names is None:
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    hashes = {}
    for name in sorted(names):
        try:
            if not (folder / name).is_file():  # reading a device might never end
                raise FileNotFoundError(name)
            with (folder / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise HarmbenchError(f"{folder} lacks {name}, which its {CARD} names") from error
    return hashes


def page(card: Card) -> str:
    """Return the card as a Markdown page."""
    params = ", ".join(f"{k}={v!r}" for k, v in sorted(card.params.items())) or "none"
    options = ", ".join(f"{k}={v!r}" for k, v in sorted(card.data["params"].items()))
    facts = {
        "what": "",
        "---": "---",
        "method": f"`{card.method}`",
        "parameters": params,
        "data": f"{card.data_label}: `{card.data['name']}` {options}".strip(),
        "license of the data": card.data_license or "not stated",
        "data fingerprint": f"`{card.fingerprint}`",
        "data seed, split": f"{card.data_seed}, `{card.split}`",
        "fitted on": f"{card.n_fit:,} images of the part `fit`",
        "reference site": card.reference_site,
        "method seed": card.seed,
        "images seen in training": f"{card.images:,}" if card.images else "not counted",
        "training time": f"{card.seconds:,.0f} s on {card.device}, {card.threads} CPU threads",
        "precision of the training": card.precision or "not stated",
        "versions": ", ".join(f"{k} {v}" for k, v in sorted(card.versions.items())),
    }
    parts = [
        f"# {card.label}",
        f"Weights of the method `{card.method}` of harmbench, made by",
        f"```sh\n{card.command}\n```",
        "and used by",
        f"```sh\nharmbench run --methods {card.label} --weights {card.label}=FOLDER\n```",
        "only on the same data, split, reference site and parameters. On other data its fit "
        "subjects could be among the subjects that are scored. For research, not for diagnosis.",
        "\n".join(f"| {name} | {value} |" for name, value in facts.items()),
    ]
    points = len(next(iter(card.history.values()), []))
    if points:
        rows = _evenly(points, README_POINTS)
        table = {name: [values[i] for i in rows] for name, values in card.history.items()}
        text = tabulate(table, headers="keys", tablefmt="github", floatfmt=".5g", intfmt=",")
        parts.append(
            f"Training curve (means since the previous point; all points are in `{CARD}`):\n\n"
            + text
        )
    return "\n\n".join(parts) + "\n"
