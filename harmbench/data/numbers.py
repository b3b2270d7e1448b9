"""Columns of numbers as people write them: decimal commas, thousands separators, units, errors."""

from __future__ import annotations

import re
from collections import Counter
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Commas = Literal["decimal", "thousands", ""]
"""Meaning of a comma between digits in a file; ``""`` if it is not known."""
UNITS = frozenset(
    "mm cm m mm2 mm3 mm^2 mm^3 mm² mm³ cm2 cm3 cm^2 cm^3 cm² cm³ µm um ml l cc g kg mg ms s hz "
    "% ‰ °".split()
)
ERRORS = re.compile(r"#\s?[A-Z0-9/]+[!?]?|Err:\d+", re.IGNORECASE)
"""Errors of spreadsheet formulas: #DIV/0!, #N/A, #VALUE!, #REF!, Err:502."""
BOUND = re.compile(r"[<>≤≥~≈±]=?\s*[\d.,]*\d.*")
EXPONENT = r"([eE][+-]?\d+)?"
GROUP = r"[1-9]\d{0,2}"
DECIMAL_COMMA = re.compile(rf"[+-]?(\d*|{GROUP}([. '\u2019]\d{{3}})+)(,\d+)?{EXPONENT}")
DECIMAL_POINT = re.compile(rf"[+-]?(\d*|{GROUP}([, '\u2019]\d{{3}})+)(\.\d*)?{EXPONENT}")
POINTS_OF_THOUSANDS = re.compile(rf"[+-]?{GROUP}(\.\d{{3}})+")


class Numbers(NamedTuple):
    """A column as numbers, and how they were read.

    A column is numeric if at least half of its values, not counting errors of formulas, are numbers
    or bounds such as ``<0.01``.
    """

    values: pd.Series  # NaN if missing or faulty
    faults: dict[int, str]  # description of each faulty value, by row label
    how: str = ""  # such as "decimal commas"; "" for plain numbers
    numeric: bool = True


def read_numbers(text: pd.Series, commas: Commas = "") -> Numbers:
    """Read a column of numbers. All values must use the same notation.

    Parameters
    ----------
    text : Series of str
        NaN if missing.
    commas : {"decimal", "thousands", ""}
        Meaning of commas in the other columns of the file, for ambiguous values such as ``1,234``.
    """
    values = plain_numbers(text)
    points = [cell for cell in text.dropna() if "." in cell] if commas == "decimal" else []
    ambiguous = bool(points) and all(map(POINTS_OF_THOUSANDS.fullmatch, points))
    ambiguous = ambiguous and values is not None
    if values is not None and not ambiguous:
        infinite = values.index[np.isinf(values.to_numpy())]
        faults = {row: f"'{text[row]}' is infinite" for row in infinite}
        return Numbers(values.drop(infinite).reindex(text.index) if faults else values, faults)
    given = text.dropna().map(_typed).astype(object)
    bare, unit, faults = _without_unit(given)
    bare = bare[[row not in faults for row in bare.index]]
    meaning = "" if ambiguous else commas_of(bare)
    pattern = DECIMAL_COMMA if (meaning or commas) == "decimal" else DECIMAL_POINT
    if not meaning and not ambiguous and all(pattern.fullmatch(c) for c in bare if _is_number(c)):
        meaning = commas
    pattern = DECIMAL_COMMA if meaning == "decimal" else DECIMAL_POINT
    how = [f"without the unit '{unit}'"] if unit else []
    numbers = {}
    for row, cell in bare.items():
        if pattern.fullmatch(cell) and re.search(r"\d", cell) and (meaning or "," not in cell):
            plain = cell.replace(".", "").replace(",", ".") if meaning == "decimal" else cell
            numbers[row] = np.nan if ambiguous else float(re.sub("[, '\u2019]", "", plain))
        if not np.isfinite(numbers.get(row, np.nan)):
            faults[row] = _fault(text[row], cell, meaning)
    read = [bare[row] for row in numbers]
    if meaning == "decimal" and any("," in cell for cell in read):
        how.append("decimal commas")
    groups = "[. '\u2019]" if meaning == "decimal" else "[, '\u2019]"
    if any(re.search(groups, cell) for cell in read):
        how.append("separators of thousands")
    errors = sum(ERRORS.fullmatch(str(given[row])) is not None for row in faults)
    bounds = sum(BOUND.fullmatch(str(given[row])) is not None for row in faults)
    alike = sum(1 for cell in bare if _is_number(cell)) + bounds
    numeric = 2 * alike >= len(given) - errors and len(given) > 0
    clean = pd.Series(numbers, dtype=float).replace([np.inf, -np.inf], np.nan)
    values = clean.reindex(text.index).astype(float)
    return Numbers(values, dict(sorted(faults.items())), ", ".join(how), numeric)


def outlying_codes(values: NDArray[np.float64]) -> list[float]:
    """Return extreme values of several rows that may be codes of missing values, such as -99.

    Such a value is more than 6 robust standard deviations from the median, and no other value
    reaches three quarters of that distance.
    """
    known = values[np.isfinite(values)]
    if known.size < 10:
        return []
    middle = float(np.median(known))
    spread = 1.4826 * float(np.median(np.abs(known - middle)))
    found = []
    for end in (known.min(), known.max()):
        distance = abs(end - middle)
        same_side = known[np.sign(known - middle) == np.sign(end - middle)]
        alone = (np.abs(same_side[same_side != end] - middle) < 0.75 * distance).all()
        if spread > 0 and distance > 6 * spread and (known == end).sum() > 1 and alone:
            found.append(float(end))
    return found


def commas_of(text: pd.Series) -> Commas:
    """Return the meaning of commas in a column; ``""`` if there are none or it is ambiguous."""
    cells = [cell for cell in text.dropna() if _is_number(cell)]
    decimal = [DECIMAL_COMMA.fullmatch(cell) is not None for cell in cells]
    point = [DECIMAL_POINT.fullmatch(cell) is not None for cell in cells]
    if sum(decimal) > sum(point):
        return "decimal"
    rows = zip(cells, decimal, point, strict=True)
    return "thousands" if any("," in c and p and not d for c, d, p in rows) else ""


def _is_number(cell: str) -> bool:
    found = DECIMAL_COMMA.fullmatch(cell) or DECIMAL_POINT.fullmatch(cell)
    return found is not None and any(char.isdigit() for char in cell)


def plain_numbers(text: pd.Series) -> pd.Series | None:
    """Return numbers with decimal points, or None if a value has another notation."""
    cells = text.to_numpy(dtype=object)
    try:
        values = cells.astype(float)
    except ValueError:
        return None
    # Python reads 3_4 as 34.
    return None if "_" in "".join(map(str, cells)) else pd.Series(values, text.index)


def _typed(cell: str) -> str:
    """Replace the minus signs and spaces of word processors by those of the keyboard."""
    return re.sub("[\u00a0\u2007\u2009\u202f]", " ", cell.replace("\u2212", "-"))


def _without_unit(given: pd.Series) -> tuple[pd.Series, str, dict[int, str]]:
    """Return the values without their unit, the unit, and the faults of values with another one."""
    split = [re.fullmatch(r"(.*\d)\s*([^\d\s.,]\S*)", cell) for cell in given]
    units = [m[2] if m and m[2].casefold() in UNITS else "" for m in split]
    bare = pd.Series(
        [m[1] if m and unit else cell for m, unit, cell in zip(split, units, given, strict=True)],
        given.index,
        dtype=object,
    )
    usual = Counter(unit for unit, cell in zip(units, bare, strict=True) if _is_number(cell))
    unit = usual.most_common(1)[0][0] if usual else ""
    expected = f"the unit '{unit}'" if unit else "no unit"
    faults = {
        row: f"'{given[row]}' is among values with {expected}"
        for row, own in zip(given.index, units, strict=True)
        if own != unit and _is_number(bare[row])
    }
    return bare, unit, faults


def _fault(cell: str, bare: str, meaning: Commas) -> str:
    if ERRORS.fullmatch(cell):
        return f"'{cell}' is the error of a spreadsheet formula"
    if BOUND.fullmatch(cell):
        return f"'{cell}' is a bound, not a number"
    if not meaning and DECIMAL_COMMA.fullmatch(bare) and DECIMAL_POINT.fullmatch(bare):
        return (
            f"'{cell}' may be a decimal or a number with a thousands separator; write decimal "
            "points and no separators"
        )
    if _is_number(bare):
        return f"'{cell}' has another notation than the other values"
    return f"'{cell}' is not a number"
