"""Which columns of a table are features, which are not and why, and which look odd."""

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
from harmbench.data.covariates import names_kind
from harmbench.data.numbers import (
    Commas,
    Numbers,
    commas_of,
    outlying_codes,
    plain_numbers,
    read_numbers,
)
from harmbench.data.problems import Problem, ScanName, some
from harmbench.errors import HarmbenchError

MOST_NAMED = 100
"""Features that the data sheet names."""
MOST_ROWS = 3
"""Faulty values of a feature that are said one by one; of more, the column is said as a whole."""
CODES = 5
"""Distinct values for each site up to which a column that tells the site holds codes."""
FEW = 10
"""Distinct whole numbers up to which a column may hold codes."""
FOLLOWS_AGE = 0.99
"""Correlation with age."""
NO_MEASURE = frozenset(
    "id rid eid uid subject participant dx diagnosis group cohort visit viscode wave session "
    "date day month year birth dob serial scanner manufacturer vendor field strength tesla coil "
    "protocol sequence education educ educat handedness iq fiq viq piq mmse moca cdr adas updrs "
    "bmi height weight medication unnamed".split()
)
"""Words in names of columns that are no measures of a brain."""


DOUBTS = {
    "constant": "have one value in all rows",
    "few": "have few distinct values, as codes have",
    "name": "are not called like measures of the brain",
    "age": "follow age",
    "codes": "hold one extreme value in several rows, as codes of missing values are",
    "equal": "are equal to each other",
}
"""What may be wrong with a feature."""


class Columns(NamedTuple):
    """The columns of a table beside identifiers and covariates.

    Attributes
    ----------
    features : DataFrame of float
        NaN where a value is missing or faulty.
    rest : DataFrame of str
        All other columns, as they are.
    problems : list of Problem
    notes : list of Note
    """

    features: pd.DataFrame
    rest: pd.DataFrame
    problems: list[Problem]
    notes: list[Note]


class Table(NamedTuple):
    """What is known of the rows of a table.

    Attributes
    ----------
    name : str
        Of the file.
    scans : list of (str, str)
        Participant and session of each row.
    site : ndarray of str
    age : ndarray of float
    """

    name: str
    scans: Sequence[ScanName]
    site: NDArray
    age: NDArray


def select(names: Iterable[str], patterns: str) -> tuple[list[str], bool]:
    """Return the names that patterns choose, and whether they name what to take.

    Parameters
    ----------
    names : iterable of str
    patterns : str
        Separated by commas, as in a shell (``*`` and ``?``); one that begins with ``!`` excludes.
        With exclusions only, all other names are chosen; ``""`` chooses all.

    Raises
    ------
    HarmbenchError
        For a pattern that fits no name.
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


def read_columns(text: pd.DataFrame, table: Table, patterns: str = "") -> Columns:
    """Read every column that may be a feature, and say what becomes of each.

    A column is a feature where its values are numbers. One that tells the site is set aside unless
    `patterns` names it: each of its values, all of which occur several times, is of one site.

    Parameters
    ----------
    text : DataFrame of str
        NaN where missing; the index is the line in the file.
    table : Table
        What is known of the rows.
    patterns : str
        As `select` has them.

    Raises
    ------
    HarmbenchError
        For a pattern that fits no column.
    """
    chosen, named = select(map(str, text), patterns)
    problems: list[Problem] = []
    excluded = set(text) - set(chosen)
    aside = {name: "excluded by --features" for name in text if name in excluded}
    read: dict[str, Numbers] = {}
    meaning = _commas(text[name] for name in chosen)
    for name in chosen:
        column = text[name]
        numbers = read_numbers(column, meaning)
        reason = _no_numbers(column, numbers)
        if reason and named:
            problems.append(Problem(table.name, f"column '{name}', named by --features: {reason}"))
            continue
        if not reason and not named and not numbers.faults:
            reason = _tells_site(numbers.values, table)
        if reason:
            aside[name] = reason
        else:
            read[name] = numbers
    features = pd.DataFrame({name: one.values for name, one in read.items()}, index=text.index)
    if features.empty:
        why = f"; {some(_grouped(aside), 3)}" if aside else ""
        problems.append(Problem(table.name, NO_FEATURE + why))
    notes = [Note(f"{len(read)} features: {some(read, MOST_NAMED)}", "read")] if read else []
    how = pd.Series({name: one.how for name, one in read.items() if one.how}, dtype=object)
    notes += [
        Note(f"{said} in {some(group.index)}", "read")
        for said, group in how.groupby(how, sort=True)
    ]
    notes += [Note(said, "set_aside") for said in _grouped(aside)]
    bad, problems_of_values = _value_problems(read, text, table)
    sound = features.drop(columns=bad)
    notes += _odd(sound, table)
    return Columns(sound, text.drop(columns=list(read)), problems + problems_of_values, notes)


NO_FEATURE = "the table has no feature: no further column whose values are numbers"


def _commas(columns: Iterable[pd.Series]) -> Commas:
    """Return what commas mean in a file: what most columns show in which they mean one thing."""
    votes = Counter(commas_of(column) for column in columns if plain_numbers(column) is None)
    votes.pop("", None)
    return votes.most_common(1)[0][0] if votes else ""


def _no_numbers(column: pd.Series, numbers: Numbers) -> str:
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


def _tells_site(values: pd.Series, table: Table) -> str:
    """Say how a column tells the site, where it plainly does."""
    whole = values.to_numpy()
    held = np.isfinite(whole)
    known = np.unique(whole[held])
    if len(known) > 2 and bool((np.diff(whole) == 1).all()) and bool((known % 1 == 0).all()):
        return "numbers the rows"
    if len(known) < 2 or 2 * len(known) > held.sum():
        return ""
    names, counts = np.unique(table.site[held], return_counts=True)
    codes = np.searchsorted(known, whole[held])
    pairs = set(zip(codes.tolist(), table.site[held].tolist(), strict=True))
    if len(names) > 1 and len(pairs) == len(names) and counts.min() > 1:
        return "constant within each site"
    # Measures that are rounded and shifted far apart by site have more values than codes have.
    few = len(known) <= CODES * len(names) and 4 * len(known) <= held.sum()
    if len(names) > 1 and few and len(pairs) == len(known):
        return "each of its values occurs at one site only"
    return ""


def _grouped(aside: dict[str, str]) -> list[str]:
    """Return one sentence for each reason; text differs from column to column."""
    reasons: dict[str, list[str]] = {}
    for name, reason in aside.items():
        reasons.setdefault(reason, []).append(name)
    return [
        f"column{'s' if len(names) > 1 else ''} {some(names, MOST_NAMED)}: {reason}"
        for reason, names in reasons.items()
    ]


def _value_problems(
    read: dict[str, Numbers], text: pd.DataFrame, table: Table
) -> tuple[list[str], list[Problem]]:
    """Return the features that have many faulty values, and all problems with values."""
    bad: list[str] = []
    lacking: list[str] = []
    problems: list[Problem] = []
    by_line: dict[int, list[str]] = {}
    for name, numbers in read.items():
        if not np.isnan(numbers.values.to_numpy()).any():
            continue
        missing = text.index[text[name].isna()]
        if len(missing) + len(numbers.faults) > MOST_ROWS:
            bad.append(name)
            if not numbers.faults:
                lacking.append(f"'{name}' ({len(missing)} of {len(text)})")
                continue
            line, sentence = next(iter(numbers.faults.items()))
            others = len(missing) + len(numbers.faults) - 1
            problems.append(
                Problem(
                    f"{table.name}, line {line}",
                    f"feature '{name}': {sentence}, and {others} more values are faulty or "
                    f"missing; {_mend([name])}",
                )
            )
            continue
        for line in missing:
            by_line.setdefault(line, []).append(f"'{name}' is missing")
        for line, sentence in numbers.faults.items():
            by_line.setdefault(line, []).append(f"'{name}': {sentence}")
    if lacking:
        names = [name for name in bad if not read[name].faults]
        said = f"features with missing values: {some(lacking, 10)}; {_mend(names)}"
        problems.append(Problem(table.name, said))
    rows = {line: row for row, line in enumerate(text.index)}
    for line, sentences in sorted(by_line.items()):
        scan = table.scans[rows[line]]
        place = " ".join(filter(None, (f"{table.name}, line {line}, {scan[0]}", scan[1])))
        said = f"feature {some(sentences, 3)}; correct or fill it, or leave the column out"
        problems.append(Problem(place, said, scan))
    return bad, problems


def _mend(names: Sequence[str]) -> str:
    return f"fill them, or leave the column out by {_without(names)}"


def _without(names: Sequence[str]) -> str:
    """Return the option that leaves columns out."""
    shown = ",".join("!" + re.sub(r"[,*?\[]", "?", name) for name in names[:10])
    return f"--features {quote(shown + (',...' if len(names) > 10 else ''))}"


def _odd(features: pd.DataFrame, table: Table) -> list[Note]:
    """Return warnings of features that may be no measures of a brain."""
    doubts: dict[str, list[str]] = {kind: [] for kind in DOUBTS}
    doubted: list[str] = []
    first: dict[bytes, str] = {}
    follows = _age_correlations(features, table.age)
    for name in features:
        values = features[name].to_numpy()
        known = np.unique(values[np.isfinite(values)])
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
        named = {word.casefold().removeprefix("pt") for word in words}
        called = named & NO_MEASURE or any(names_kind(name, k) for k in ("site", "age", "sex"))
        if len(known) < 2:
            doubts["constant"].append(name)
        elif len(known) <= FEW and (known % 1 == 0).all():
            doubts["few"].append(f"{name} ({some(f'{value:g}' for value in known)})")
            doubted.append(name)
        elif called or follows.get(name, 0.0) >= FOLLOWS_AGE:
            doubts["name" if called else "age"].append(name)
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
        notes.append(Note(f"leave out what is no measure of the brain by {_without(doubted)}"))
    return notes


def _age_correlations(features: pd.DataFrame, age: NDArray) -> dict[str, float]:
    rows = np.isfinite(age) & np.isfinite(features.to_numpy()).all(axis=1)
    if rows.sum() < 10:
        return {}
    values = features.to_numpy()[rows]
    values = values - values.mean(axis=0)
    ages = age[rows] - age[rows].mean()
    scale = np.sqrt((values**2).sum(axis=0) * (ages**2).sum())
    found = np.abs(values.T @ ages) / np.where(scale > 0, scale, np.inf)
    return dict(zip(map(str, features), found.tolist(), strict=True))
