"""Tables as LaTeX: every sign is escaped, and no row sticks out of the line."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from reports.latex import CHARS, latex, latex_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"a_b % & # $ {x} ~ ^ \ ",
         r"a\_b \% \& \# \$ \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{}"),
        ("<b> | `x`", r"\textless{}b\textgreater{} \textbar{} \textasciigrave{}x\textasciigrave{}"),
        ("[1, 2]", "{[}1, 2]"),
        ("↓ — η² ± −1 ≤ 2", r"$\downarrow$ --- $\eta$$^2$ $\pm$ $-$1 $\le$ 2"),
        ("Zürich naïve Łódź", "Zürich naïve Łódź"),
        ("Ω λ", r"$\Omega$ $\lambda$"),
        ("中 ﬁ", "U+4E2D fi"),
        ("two\nlines\tand  spaces", "two lines and spaces"),
        (r"\input{/etc}", r"\textbackslash{}input\{/\allowbreak{}etc\}"),
    ],
)  # fmt: skip
def test_signs(text: str, expected: str) -> None:
    assert latex_text(text) == expected


@pytest.mark.parametrize("sign", [*"_%&#${}~^\\", "é", "→", "中", "😀", "\x00"])
def test_no_sign_is_left_that_latex_would_act_on_or_not_know(sign: str) -> None:
    text = latex_text(f"a{sign}b")
    bare = re.sub(r"\\[A-Za-z]+(\{\})?|\\[_%&#${}]|\$\\[a-z]+\$", "", text)
    assert not set(bare) & set("_%&#${}~^\\\x00")
    assert all(c.isascii() or c <= "\u017e" for c in text)


def frame(columns: int, word: str = "reconstruction", rows: int = 3) -> pd.DataFrame:
    data = {"Method": [f"method {i}" for i in range(rows)]}
    data |= {f"{word} {k}": [f"{i}.{k} [0.1, 0.2]" for i in range(rows)] for k in range(columns)}
    return pd.DataFrame(data)


def widths(text: str) -> list[float]:
    """Return the width of each tabular, in shares of the line, without the columns' gaps."""
    lines = [line for line in text.splitlines() if line.lstrip().startswith((r"\noindent\begin",
             r"\begin{longtable}"))]  # fmt: skip
    return [sum(map(float, re.findall(r"p\{([0-9.]+)\\linewidth\}", line))) for line in lines]


def test_a_wide_table_is_cut_and_each_part_names_its_rows() -> None:
    text = latex(frame(12))
    assert len(widths(text)) > 1 and all(width < 1 for width in widths(text))
    assert text.count("Method &") == len(widths(text)) == text.count("method 2 &")
    assert all(f"reconstruction {k}" in text for k in range(12))


def test_a_narrow_table_is_one_and_not_stretched() -> None:
    (width,) = widths(latex(frame(2, "x")))
    assert 10 / CHARS < width < 0.7


def test_a_long_word_does_not_widen_the_line() -> None:
    assert all(width <= 1 for width in widths(latex(frame(1, "x" * 200))))


def test_a_long_table_may_break_across_pages() -> None:
    assert r"\begin{longtable}" in latex(frame(2, rows=60))
    assert r"\begin{longtable}" not in latex(frame(2, rows=20))
    text = latex(frame(2, rows=60))
    assert text.count(r"\\") == 61 and r"\endhead" in text


def test_no_row_begins_with_a_bare_bracket() -> None:
    text = latex(pd.DataFrame({"[a]": ["[1] x", "[2] y"], "b": ["", ""]}))
    assert not re.search(r"\\\\\s*\[", text) and "{[}2] y" in text
    assert latex(pd.DataFrame()) == ""
