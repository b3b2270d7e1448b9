"""Tables of texts as LaTeX that fits the line width and compiles with pdfLaTeX.

A table that is too wide is split into several with the same first column, because a small font is
hard to read. Columns wrap at spaces, so that an interval is printed below its value.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd

PREAMBLE = r"% In the preamble: \usepackage{booktabs,array,longtable}"
CHARS = 76
"""Characters of \\footnotesize on a line of an article with its default margins."""
GAP = 1.6
"""Characters on the space between two columns."""
LONG = 40
"""Number of lines from which on a table may break across pages."""

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': "''",
    # After the end of a row, a bracket would be read as the height of the row.
    "[": "{[}",
    "`": r"\textasciigrave{}",
    # Addresses may break here, because they are too long for a line.
    "/": r"/\allowbreak{}",
}
SIGNS = {
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "→": r"$\rightarrow$",
    "—": "---",
    "–": "--",
    "†": r"\dag{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "²": "$^2$",
    "³": "$^3$",
    "°": r"$^\circ$",
    "µ": r"$\mu$",
    "−": "$-$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "≈": r"$\approx$",
    "…": r"\ldots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
}
GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "upsilon phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
).split()


def latex_text(text: object) -> str:
    """Return one line of text for LaTeX.

    Letters of European alphabets are kept; other characters that pdfLaTeX does not know are
    replaced by their code, such as ``U+4E2D``.
    """
    return "".join(_sign(c) for c in " ".join(str(text).split()))


def _sign(sign: str) -> str:
    if sign in SPECIAL:
        return SPECIAL[sign]
    if sign in SIGNS:
        return SIGNS[sign]
    # Letters such as é, which every pdfLaTeX since 2018 reads.
    if sign.isascii() or "\u00c0" <= sign <= "\u017e":
        return sign if sign.isprintable() else " "
    words = unicodedata.name(sign, "").split()
    if words[:1] == ["GREEK"] and len(words) == 4:
        name = words[3].lower() if words[1] == "SMALL" else words[3].capitalize()
        name = name.replace("amda", "ambda")
        # Capitals that look like Latin letters have no command.
        if name in GREEK:
            return rf"$\{name}$"
    plain = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
    return "".join(SPECIAL.get(c, c) for c in plain) or f"U+{ord(sign):04X}"


def latex(frame: pd.DataFrame) -> str:
    """Return a table of texts as LaTeX tables with the rules of booktabs.

    Parameters
    ----------
    frame : DataFrame
        Its first column names the rows, and is repeated if the table is split.
    """
    if frame.columns.empty:
        return ""
    columns = [
        [" ".join(str(text).split()) for text in (name, *values)] for name, values in frame.items()
    ]
    parts = [_part([columns[i] for i in chosen]) for chosen in _cut(columns)]
    return "\n\n".join(parts)


def _cut(columns: list[list[str]]) -> list[list[int]]:
    """Return groups of columns whose words fit the line."""
    needs = [_longest_word(column) + GAP for column in columns]
    groups, held = [[0]], needs[0]
    for i, need in enumerate(needs[1:], start=1):
        if held + need > CHARS and len(groups[-1]) > 1:
            groups.append([0])
            held = needs[0]
        groups[-1].append(i)
        held += need
    return groups


def _part(columns: list[list[str]]) -> str:
    head, *rows = zip(*columns, strict=True)
    widths = _widths(columns)
    layout = "".join(
        rf">{{\raggedright\arraybackslash}}p{{{width:.3f}\linewidth}}" for width in widths
    )
    layout, top = f"{{@{{}}{layout}@{{}}}}", [r"\toprule", _row(head), r"\midrule"]
    lines = [_row(row) for row in rows]
    if _height(rows, widths) > LONG:
        top += [r"\endhead", r"\bottomrule", r"\endfoot"]
        body = [r"\begin{longtable}" + layout, *top, *lines, r"\end{longtable}"]
    else:
        body = [r"\noindent\begin{tabular}" + layout, *top, *lines, r"\bottomrule"]
        body += [r"\end{tabular}\par"]
    return "\n".join([r"\begingroup\footnotesize\setlength{\tabcolsep}{3pt}", *body, r"\endgroup"])


def _row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


def _widths(columns: list[list[str]]) -> list[float]:
    """Return widths as shares of the line: at least the longest word, more for longer texts."""
    least = np.array([_longest_word(column) + 0.4 for column in columns])
    wished = np.array([max(map(len, column)) + 0.4 for column in columns])
    room = CHARS - GAP * (len(columns) - 1)
    spare, more = max(room - least.sum(), 0.0), wished - least
    share = min(1.0, spare / more.sum()) if more.sum() > 0 else 0.0
    widths = least + share * more
    # A single word may be longer than the line.
    return [float(w) for w in widths / CHARS * min(1.0, room / widths.sum())]


def _height(rows: Sequence[Sequence[str]], widths: Sequence[float]) -> int:
    """Return the approximate number of lines of the rows."""
    return sum(
        max(math.ceil(len(cell) / (width * CHARS)) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _longest_word(column: Sequence[str]) -> float:
    return max(max(map(len, text.split()), default=1) for text in column)
