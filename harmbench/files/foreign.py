"""Files of unknown origin: what they may unpack to, and JSON that can be written again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

HARMLESS = 2**28
"""Bytes that a compressed file may unpack to, as far as its method can: 256 MiB."""
MOST_RATIO = 200
"""Unpacked bytes per packed one beyond `HARMLESS`; scans reach 10, their masks 100."""
DEFLATE_RATIO = 1032
"""The most that deflate, the method of gzip and of zip, packs into one byte."""


def most_unpacked(size: int) -> int:
    """Return the most bytes that are unpacked from a compressed file of so many.

    What promises more is damaged, or made to exhaust the memory (a "bomb").
    """
    return max(MOST_RATIO * size, min(DEFLATE_RATIO * size, HARMLESS))


def mebibytes(count: float) -> str:
    """Return a number of bytes for people."""
    return f"{count / 2**20:,.3g} MiB" if count < 2**30 else f"{count / 2**30:,.1f} GiB"


def parse_json(text: str) -> Any:
    """Return what a JSON text says.

    Raises
    ------
    ValueError
        Where it is no JSON, is nested too deeply, or holds halves of letters, which no file can be
        written of.
    """
    try:
        said = json.loads(text)
        json.dumps(said, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return said


def at_home(value: Any) -> Any:
    """Return a setting with ``~`` before a path, or after ``=``, expanded."""
    if isinstance(value, Path):
        return value.expanduser()
    if isinstance(value, list | tuple):
        return type(value)(at_home(one) for one in value)
    if isinstance(value, str):
        name, equals, path = value.rpartition("=")
        if path.startswith("~"):
            return name + equals + os.path.expanduser(path)
    return value
