"""Find the feature columns of a table, and suspicious ones among them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from shlex import quote
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harmbench.contracts.dataset import Note
from harmbench.data.covariates import names_kind, words_of
from harmbench.data.numbers import (
    Commas,
    Numbers,
    commas_of,
    outlying_codes,
    plain_numbers,
    read_numbers,
)
from harmbench.data.problems import Problem, ScanName, full_name, some
from harmbench.errors import HarmbenchError

MOST_NAMED = 100
"""Largest number of features that the data sheet lists."""
MOST_ROWS = 3
"""Largest number of faulty values of a feature that are reported one by one."""
CODES = 5
"""Largest number of distinct values per site of a column of codes of the sites."""
FEW = 10
"""Largest number of distinct whole numbers of a column of codes."""
FOLLOWS_AGE = 0.99
"""Smallest correlation of a column that follows age."""
NO_MEASURE = frozenset(
    "id rid eid uid subject participant dx diagnosis group cohort visit viscode wave session "
    "date day month year birth dob serial scanner manufacturer vendor field strength tesla coil "
    "protocol sequence education educ educat handedness iq fiq viq piq mmse moca cdr adas updrs "
    "bmi height weight medication unnamed".split()
)
"""Words in names of columns that are not measures of the brain."""
DOUBTS = {
    "constant": "have one value in all rows",
    "few": "have few distinct values, as codes have",
    "name": "do not have names of measures of the brain",
    "age": "follow age",
    "codes": "hold one extreme value in several rows, as codes of missing values are",
    "equal": "are equal to each other",
}
"""What may be wrong with features."""


class Rows(NamedTuple):
    """The file name of a table, and the scan, site and age (years) of each row."""

    file: str
    scans: Sequence[ScanName]
    site: NDArray
    age: NDArray


def select(names: Iterable[str], patterns: str) -> tuple[list[str], bool]:
    """Return the names that match patterns, and whether there are patterns of names to include.

    Parameters
    ----------
    names : iterable of str
    patterns : str
        Shell patterns (``*`` and ``?``) separated by commas; ``!`` before a pattern excludes names.
        If all patterns exclude, the other names are chosen; ``""`` chooses all.

    Raises
    ------
    HarmbenchError
        If a pattern matches no name.
    """
    names = list(names)
    words = [word.strip() for word in patterns.split(",") if word.strip()]
    without = [word[1:] for word in words if word.startswith("!")]
    wanted = [word for word in words if not word.startswith("!")]
    for word in (*without, *wanted):
        if not any(fnmatchcase(name, word) for name in names):
            raise HarmbenchError(
                f"--features: '{word}' fits no column; the columns are {some(names, 30)}"
            )
    chosen = [
        name
        for name in names
        if (not wanted or any(fnmatchcase(name, word) for word in wanted))
        and not any(fnmatchcase(name, word) for word in without)
    ]
    return chosen, bool(wanted)


def read_columns(
    text: pd.DataFrame, rows: Rows, patterns: str = ""
) -> tuple[pd.DataFrame, pd.DataFrame, list[Problem], list[Note]]:
    """Read every column that may be a feature, and report how each column is used.

    A column of numbers is a feature. If it identifies the site, it is set aside unless `patterns`
    includes it.

    Parameters
    ----------
    text : DataFrame of str
        NaN if missing; the index is the line in the file.
    rows : Rows
    patterns : str
        See `select`, which also raises the errors.

    Returns
    -------
    features : DataFrame of float
        NaN if a value is missing or faulty.
    rest : DataFrame of str
        All other columns, unchanged.
    problems : list of Problem
    notes : list of Note
    """
    chosen, named = select(map(str, text), patterns)
    problems: list[Problem] = []
    excluded = set(text) - set(chosen)
    aside = {name: "excluded by --features" for name in text if name in excluded}
    read: dict[str, Numbers] = {}
    commas = _commas(text[name] for name in chosen)
    for name in chosen:
        column = text[name]
        numbers = read_numbers(column, commas)
        reason = _not_numbers(column, numbers)
        if reason and named:
            problems.append(Problem(rows.file, f"column '{name}', named by --features: {reason}"))
            continue
        if not reason and not named and not numbers.faults:
            reason = _identifies_site(numbers.values, rows)
        if reason:
            aside[name] = reason
        else:
            read[name] = numbers
    features = pd.DataFrame({name: one.values for name, one in read.items()}, index=text.index)
    if features.empty:
        why = f"; {some(_grouped(aside), 3)}" if aside else ""
        nothing = "the table has no feature: no further column whose values are numbers"
        problems.append(Problem(rows.file, nothing + why))
    notes = [Note(f"{len(read)} features: {some(read, MOST_NAMED)}", "read")] if read else []
    how = pd.Series({name: one.how for name, one in read.items() if one.how}, dtype=object)
    notes += [
        Note(f"{kind} in {some(group.index)}", "read")
        for kind, group in how.groupby(how, sort=True)
    ]
    notes += [Note(sentence, "set_aside") for sentence in _grouped(aside)]
    bad, problems_of_values = _value_problems(read, text, rows)
    sound = features.drop(columns=bad)
    notes += _doubts(sound, rows)
    return sound, text.drop(columns=list(read)), problems + problems_of_values, notes


def _commas(columns: Iterable[pd.Series]) -> Commas:
    """Return the meaning of commas in a file: that of most columns in which it is clear."""
    votes = Counter(commas_of(column) for column in columns if plain_numbers(column) is None)
    votes.pop("", None)
    return votes.most_common(1)[0][0] if votes else ""


def _not_numbers(column: pd.Series, numbers: Numbers) -> str:
    if numbers.numeric and not numbers.faults and np.isfinite(numbers.values.to_numpy()).any():
        return ""
    given = column.dropna()
    if given.empty:
        return "empty"
    if not numbers.numeric:
        words = [cell for row, cell in given.items() if np.isnan(numbers.values[row])]
        count = len(given) - len(words)
        also = f"; {count} of {len(given)} values are numbers" if count else ""
        return f"text, such as '{words[0]}'{also}"
    return ""


def _identifies_site(values: pd.Series, rows: Rows) -> str:
    """Return how a column identifies the site (or numbers the rows); ``""`` if it does not."""
    whole = values.to_numpy()
    held = np.isfinite(whole)
    known = np.unique(whole[held])
    if len(known) > 2 and bool((np.diff(whole) == 1).all()) and bool((known % 1 == 0).all()):
        return "numbers the rows"
    if len(known) < 2 or 2 * len(known) > held.sum():
        return ""
    names, counts = np.unique(rows.site[held], return_counts=True)
    codes = np.searchsorted(known, whole[held])
    pairs = set(zip(codes.tolist(), rows.site[held].tolist(), strict=True))
    if len(names) > 1 and len(pairs) == len(names) and counts.min() > 1:
        return "constant within each site"
    # Rounded measures that differ much between sites have more distinct values than codes have.
    few = len(known) <= CODES * len(names) and 4 * len(known) <= held.sum()
    if len(names) > 1 and few and len(pairs) == len(known):
        return "each of its values occurs at one site only"
    return ""


def _grouped(aside: dict[str, str]) -> list[str]:
    """Return one sentence for each reason with the names of its columns."""
    reasons: dict[str, list[str]] = {}
    for name, reason in aside.items():
        reasons.setdefault(reason, []).append(name)
    return [
        f"column{'s' if len(names) > 1 else ''} {some(names, MOST_NAMED)}: {reason}"
        for reason, names in reasons.items()
    ]


def _value_problems(
    read: dict[str, Numbers], text: pd.DataFrame, rows: Rows
) -> tuple[list[str], list[Problem]]:
    """Return the features that have many faulty values, and all problems of values."""
    bad: list[str] = []
    incomplete: list[str] = []
    problems: list[Problem] = []
    by_line: dict[int, list[str]] = {}
    for name, numbers in read.items():
        if not np.isnan(numbers.values.to_numpy()).any():
            continue
        missing = text.index[text[name].isna()]
        count = len(missing) + len(numbers.faults)
        if count > MOST_ROWS:
            bad.append(name)
            if not numbers.faults:
                incomplete.append(f"'{name}' ({len(missing)} of {len(text)})")
                continue
            line, fault = next(iter(numbers.faults.items()))
            others = f"{count - 1} more values are faulty or missing; {_correction([name])}"
            sentence = f"feature '{name}': {fault}, and {others}"
            problems.append(Problem(f"{rows.file}, line {line}", sentence))
            continue
        for line in missing:
            by_line.setdefault(line, []).append(f"'{name}' is missing")
        for line, fault in numbers.faults.items():
            by_line.setdefault(line, []).append(f"'{name}': {fault}")
    if incomplete:
        names = [name for name in bad if not read[name].faults]
        sentence = f"features with missing values: {some(incomplete, 10)}; {_correction(names)}"
        problems.append(Problem(rows.file, sentence))
    scans = dict(zip(text.index, rows.scans, strict=True))
    for line, faults in sorted(by_line.items()):
        place = f"{rows.file}, line {line}, {full_name(scans[line])}"
        sentence = f"feature {some(faults, 3)}; correct or fill it, or leave the column out"
        problems.append(Problem(place, sentence, scans[line]))
    return bad, problems


def _correction(names: Sequence[str]) -> str:
    return f"fill them, or leave the column out by {_without(names)}"


def _without(names: Sequence[str]) -> str:
    """Return the option that leaves columns out."""
    shown = ",".join("!" + re.sub(r"[,*?\[]", "?", name) for name in names[:10])
    return f"--features {quote(shown + (',...' if len(names) > 10 else ''))}"


def _doubts(features: pd.DataFrame, rows: Rows) -> list[Note]:
    """Return warnings about features that may not be measures of the brain."""
    doubts: dict[str, list[str]] = {kind: [] for kind in DOUBTS}
    doubted: list[str] = []
    first: dict[bytes, str] = {}
    with_age = _age_correlations(features, rows.age)
    for name in features:
        values = features[name].to_numpy()
        known = np.unique(values[np.isfinite(values)])
        named = {word.removeprefix("pt") for word in words_of(name)}
        other = named & NO_MEASURE or any(names_kind(name, k) for k in ("site", "age", "sex"))
        if len(known) < 2:
            doubts["constant"].append(name)
        elif len(known) <= FEW and (known % 1 == 0).all():
            doubts["few"].append(f"{name} ({some(f'{value:g}' for value in known)})")
            doubted.append(name)
        elif other or with_age.get(name, 0.0) >= FOLLOWS_AGE:
            doubts["name" if other else "age"].append(name)
            doubted.append(name)
        if codes := outlying_codes(values):
            doubts["codes"].append(f"{name} ({some(f'{value:g}' for value in codes)})")
        twin = first.setdefault(values.tobytes(), name)
        if twin != name and len(known) > 1:
            doubts["equal"].append(f"{twin} and {name}")
    notes = [
        Note(f"used as features although they {DOUBTS[kind]}: {some(names, 12)}")
        for kind, names in doubts.items()
        if names
    ]
    if doubted:
        notes.append(Note(f"leave out what is not a measure of the brain by {_without(doubted)}"))
    return notes


def _age_correlations(features: pd.DataFrame, age: NDArray) -> dict[str, float]:
    """Return the absolute correlation of each feature with age, over the complete rows."""
    complete = np.isfinite(age) & np.isfinite(features.to_numpy()).all(axis=1)
    if complete.sum() < 10:
        return {}
    values = features.to_numpy()[complete]
    values = values - values.mean(axis=0)
    ages = age[complete] - age[complete].mean()
    scale = np.sqrt((values**2).sum(axis=0) * (ages**2).sum())
    found = np.abs(values.T @ ages) / np.where(scale > 0, scale, np.inf)
    return dict(zip(map(str, features), found.tolist(), strict=True))
