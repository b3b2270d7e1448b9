"""Read tables with any common encoding, separator and line ending as columns of text."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harmbench.errors import HarmbenchError
from harmbench.files.foreign import mebibytes

MISSING = frozenset(
    {"", "n/a", "na", "nan", "none", "null", "unknown", "n.a.", "-", "--", ".", "?"}
    | {sign + digits for sign in ("-999", "-9999") for digits in ("", ".0")}
)
MOST_BYTES = 2**30
MOST_COLUMNS = 2**17
"""Limit for all tables, also tables of features; a cell takes about 60 bytes of memory."""
SEPARATORS = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "vertical bar"}
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte-order marks and encodings; longer marks first, since they begin like the shorter ones."""
INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060 \xa0"
"""Zero-width characters and spaces, which often surround text copied from web pages."""
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""First bytes of .xlsx and .ods, and of .xls."""


def read_table(path: Path, site: str = "") -> pd.DataFrame:
    """Read a table as stripped text, missing values as NaN; the index is the line in the file.

    The encoding is UTF-8, or UTF-16 or UTF-32 with a byte-order mark. The separator is the tab,
    comma, semicolon or vertical bar that occurs most in the header (tabs first), or the one given
    by a first line ``sep=;``. Fields may be quoted. Blank lines, and empty columns without a name,
    are ignored.

    Parameters
    ----------
    path : Path
    site : str
        Column in which ``NA`` is a name (as for Naples), unless another column holds it too.

    Raises
    ------
    HarmbenchError
        If it is not such a text, its lines differ in length, two columns have the same name, or
        there are no rows.
    """
    header, rows = _lines(path.name, _decoded(path))
    if not rows:
        raise HarmbenchError(f"{path.name} has no rows below its header")
    named = [
        place
        for place, name in enumerate(header)
        if name or any(fields[place] for _, fields in rows)
    ]
    names = [header[place] or f"unnamed_{place + 1}" for place in named]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise HarmbenchError(
            f"{path.name} has two columns called {', '.join(twice)}; names must be unique"
        )
    cells = [[fields[place] for place in named] for _, fields in rows]
    values = without_missing(cells, names.index(site) if site in names else -1)
    return pd.DataFrame(values, [line for line, _ in rows], names, dtype=object)


def without_missing(rows: Sequence[Sequence[str]], site: int = -1) -> list[list[Any]]:
    """Replace the codes of missing values by NaN.

    ``NA`` in the column at `site` is a name, unless another column holds it too.
    """
    held = {place for row in rows for place, cell in enumerate(row) if cell == "NA"}
    name = site if held == {site} else -1
    return [
        [
            np.nan if cell.casefold() in MISSING and not (place == name and cell == "NA") else cell
            for place, cell in enumerate(row)
        ]
        for row in rows
    ]


def plain(text: str) -> str:
    """Normalize the Unicode form, spaces and dashes of text, and remove invisible characters.

    For example, ``"Zu\u0308rich"`` becomes ``"Zürich"``. Spaces around the text are removed.
    """
    if text.isascii():
        return text.strip()
    kept = []
    for char in unicodedata.normalize("NFKC", text):
        kind = unicodedata.category(char)
        if kind != "Cf":  # zero-width spaces, byte-order marks, soft hyphens
            kept.append("-" if kind == "Pd" or char == "\u2212" else " " if kind == "Zs" else char)
    return "".join(kept).strip()


def _lines(name: str, text: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the fields of each other line with its number in the file.

    A line with more or fewer fields than the header is an error: its values may be in the wrong
    columns.
    """
    given = re.match(r'\s*"?sep=(.)"?[^\S\n]*(?=\n|$)', text)
    skipped = text.count("\n", 0, given.end()) + 1 if given else 0
    body = text[given.end() + 1 :] if given else text
    separator = given[1] if given else _separator(body)
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for row in reader:
            fields = [field.strip().strip(INVISIBLE) for field in row]
            if any(fields):
                lines.append((reader.line_num + skipped, fields))
    except csv.Error as error:
        raise HarmbenchError(
            f"{name}, line {reader.line_num + skipped} is not a line of a table ({error}); "
            "correct its quotes"
        ) from error
    if not lines:
        raise HarmbenchError(f"{name} is empty; it must have a header and a row for each scan")
    (_, header), *rows = lines
    header = [plain(field) for field in header]
    width = len(header)
    if width > MOST_COLUMNS:
        raise HarmbenchError(f"{name} has {width:,} columns; at most {MOST_COLUMNS:,} are read")
    if width == 1 and " " in header[0]:
        raise HarmbenchError(
            f"{name} has one column '{header[0][:60]}'; separate columns by tabs or commas, not by "
            "spaces"
        )
    least = max(place for place, field in enumerate(header, 1) if field)
    for line, fields in rows:
        if fields == header:
            raise HarmbenchError(f"{name}, line {line} repeats the header; delete that line")
        while len(fields) > width and not fields[-1]:
            fields.pop()
        if not least <= len(fields) <= width:
            raise HarmbenchError(
                f"{name}, line {line} has {len(fields)} fields, the header {width}; correct the "
                f"line, or quote fields with a {SEPARATORS.get(separator, separator)}"
            )
        fields += [""] * (width - len(fields))
    return header, rows


def _separator(text: str) -> str:
    """Return the separator that occurs most in the header; tabs have priority."""
    header = re.sub('"[^"]*"', "", text.lstrip("\n").split("\n", 1)[0])
    if "\t" in header:
        return "\t"
    return max(",;|", key=header.count)


def _decoded(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise HarmbenchError(f"{path.name} takes {mebibytes(size)}; no table is so large")
        content = path.read_bytes()
    except OSError as error:
        raise HarmbenchError(f"{path.name} cannot be read ({error.strerror})") from error
    if content.startswith(WORKBOOKS):
        raise HarmbenchError(
            f"{path.name} is a workbook of a spreadsheet program, not text; save it as CSV in UTF-8"
        )
    encoding = next((MARKS[mark] for mark in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise HarmbenchError(f"{path.name} {_other_encoding(content, encoding, error)}") from error
    if "\0" in text:
        raise HarmbenchError(
            f"{path.name} holds zero bytes: it is UTF-16 without a byte-order mark, or not text; "
            "save it again as UTF-8"
        )
    text = text.replace("\r\n", "\n").replace("\r", "\n").lstrip("\ufeff").rstrip("\x1a")
    if not text.strip():
        raise HarmbenchError(f"{path.name} is empty")
    return text


def _other_encoding(content: bytes, encoding: str, error: UnicodeDecodeError) -> str:
    """Describe the probable encoding, with the line that shows it."""
    if encoding != "utf-8":
        return f"begins as {encoding.upper()} text but is cut short or damaged; save it as UTF-8"
    again = "save it again as UTF-8 (in Excel: CSV UTF-8)"
    if content[: error.start].count(b"\0") > error.start // 4:
        return f"is not UTF-8 text: it seems to be UTF-16 without a byte-order mark; {again}"
    begin = content.rfind(b"\n", 0, error.start) + 1
    shown = re.split(rb"[\t,;|\r\n]", content[begin:])
    place = content.count(b"\n", 0, error.start) + 1
    cell = next((one for one in shown if not one.isascii()), b"")
    try:
        word = cell.decode("cp1252").strip()[:40]
    except UnicodeDecodeError:
        return f"is not UTF-8 text (line {place}); {again}"
    return (
        f"is not UTF-8 text: it seems to be Windows-1252, in which line {place} holds '{word}'; "
        f"{again}"
    )


def second_header(table: pd.DataFrame) -> str:
    """Return the sentence for a first row that looks like a second header, else ``""``."""
    if reason := _second_header(table):
        return (
            f"line {table.index[0]} looks like a second header ({reason}); delete it: there is one "
            "header line, and units belong into participants.json or the columns' names"
        )
    return ""


def _second_header(table: pd.DataFrame) -> str:
    """Report a cell that repeats its column's name, or text above most columns of numbers."""
    first = {name: cell for name, cell in table.iloc[0].items() if isinstance(cell, str)}
    for name, cell in first.items():
        if cell.casefold() == str(name).casefold():
            return f"it repeats the column name '{cell}'"
    words = {name: cell for name, cell in first.items() if np.isnan(number(cell))}
    above = {name: cell for name, cell in words.items() if _are_numbers(table[name].iloc[1:])}
    for name, cell in above.items() if len(above) > len(first) - len(words) else ():
        return f"'{cell}' is in the column of numbers '{name}'"
    return ""


def _are_numbers(column: pd.Series) -> bool:
    given = column.dropna()
    return len(given) > 0 and not any(np.isnan(number(cell)) for cell in given)


def number(text: object) -> float:
    """Return the nearest float, else NaN (`pandas.to_numeric` differs in the last bit)."""
    plain_text = str(text).removesuffix("+").removeprefix(">").strip()
    if "_" in plain_text:  # Python reads 3_4 as 34
        return np.nan
    try:
        return float(plain_text)
    except ValueError:
        return np.nan
