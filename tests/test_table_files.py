"""Tables as files: every encoding, separator and line end, and what cannot be read."""

from __future__ import annotations

import codecs
from pathlib import Path

import pandas as pd
import pytest

from harmbench.data.table_files import plain, read_table, second_header
from harmbench.errors import HarmbenchError


def read(tmp_path: Path, content: str | bytes, name: str = "participants.tsv") -> pd.DataFrame:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(file)


@pytest.mark.parametrize(
    "text",
    [
        "participant_id\tage\tsite\n01\t20\tA, B\n",
        "\ufeff\ufeffparticipant_id \t age\tsite\r\n01\t20\t A, B \r\n\r\n",
        'participant_id,age,site\n01,20,"A, B"\n',
        '"participant_id";"age";"site"\r"01";"20";"A, B"\r',
        '\n\nparticipant_id\tage\tsite\n\n01\t20\t"A, B"',
        "\ufeffsep=;\r\nparticipant_id;age;site\r\n01;20;A, B\r\n",
        '"sep=|"\nparticipant_id|age|site\n01|20|A, B\n',
        "participant_id|age|site\n01|20|A, B\n\x1a",
        "participant_id\u00a0;\u2003age;\ufeffsite\u200b\n\u00a0 01;20\u202f;\u200b A, B\u00a0\n",
        'participant_id,age,site,,\n01,20,"A, B",,\n,,,,\n,,,,\n',
        'participant_id,age,site,,\n01,20,"A, B"\n',
        'participant_id,,age,site\n01,,20,"A, B"\n',
        *(
            mark + "participant_id;age;site\r\n01;20;A, B\r\n".encode(encoding)
            for mark, encoding in (
                (codecs.BOM_UTF16_LE, "utf-16-le"),
                (codecs.BOM_UTF16_BE, "utf-16-be"),
                (codecs.BOM_UTF32_LE, "utf-32-le"),
                (codecs.BOM_UTF8, "utf-8"),
            )
        ),
    ],
    ids=[
        "tsv",
        "two BOMs and spaces",
        "csv",
        "semicolons",
        "blank lines",
        "sep",
        "quoted sep",
        "vertical bars",
        "unusual spaces",
        "empty columns and rows",
        "short rows",
        "empty column within",
        "UTF-16 LE",
        "UTF-16 BE",
        "UTF-32",
        "UTF-8 with BOM",
    ],
)
def test_tables_of_any_dialect_are_the_same(tmp_path, text):
    table = read(tmp_path, text)
    assert list(table) == ["participant_id", "age", "site"]
    assert table.to_numpy().tolist() == [["01", "20", "A, B"]]


def test_the_index_is_the_line_below_a_line_of_the_separator(tmp_path):
    assert list(read(tmp_path, "sep=;\na;b\n1;2\n\n3;4\n").index) == [3, 5]


def test_a_column_of_values_without_a_name_is_kept(tmp_path):
    assert list(read(tmp_path, "participant_id,,\nx,1,\n")) == ["participant_id", "unnamed_2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Zu\u0308rich", "Zürich"),
        (" a\u00a0b\u2003c ", "a b c"),
        ("site\u200b\ufeff1", "site1"),
        ("\uff11\uff12", "12"),
        ("a\u2013b\u2011c\u2212d", "a-b-c-d"),
        ("\ufb01eld", "field"),
        ("plain text", "plain text"),
    ],
)
def test_one_form_of_each_text(text, expected):
    assert plain(text) == expected == plain(expected)


def test_empty_fields_at_the_end_of_lines_are_nothing(tmp_path):
    assert read(tmp_path, "participant_id\tage\n01\t20\t\t\n").to_numpy().tolist() == [["01", "20"]]


def test_the_index_is_the_line(tmp_path):
    table = read(tmp_path, "participant_id\tage\n01\t20\n\n02\t30\n")
    assert list(table.index) == [2, 4]


@pytest.mark.parametrize("text", ["n/a", "N/A", "-", "", "-9999", "-9999.0", "NaN", "NULL", " . "])
def test_all_spellings_of_missing(tmp_path, text):
    table = read(tmp_path, f"participant_id\tage\n01\t{text}\n02\t30\n")
    assert pd.isna(table.loc[2, "age"]) and table.loc[3, "age"] == "30"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "is empty"),
        (";\n", "is empty"),
        ("participant_id\tage\n", "no rows"),
        ("participant_id\tage\tage\n1\t2\t3\n", "two columns called age"),
        ("participant_id\tage\n1\t2\t3\n", ", line 2 has 3 fields, the header 2"),
        ('a\tb\n1\t"x\n2\ty\n', "is not a line of a table .*quotes"),
        ("id,sex (1=m, 2=f),age\n1,2,30\n", ", line 2 has 3 fields, the header 4"),
        (b"id\tsite\n1\tx\n2\tM\xfcller\n", "seems to be Windows-1252, in which line 3 .*'Müller'"),
        (b"id\tsite\n1\t\x81\x8d\n", r"not UTF-8 text \(line 2\)"),
        ("id\tsite\n1\tZürich\n".encode("utf-16-le"), "UTF-16 without a byte-order mark"),
        ("id\tsite\n1\tZürich\n".encode("utf-16-be"), "UTF-16 without a byte-order mark"),
        ("id\tsite\n1\t2\n".encode("utf-16-le"), "UTF-16 without a byte-order mark"),
        (codecs.BOM_UTF16_LE + b"i", "UTF-16 text but is cut short"),
        (b"PK\x03\x04 and so on", "workbook"),
        (b"\xd0\xcf\x11\xe0 and so on", "workbook"),
        ("a;b\n1;2;3\n", "line 2 has 3 fields.*semicolon"),
        ("sep=;\na;b\n1;2\n1;2;3\n", "line 4 has 3 fields"),
        ("a;b\n1;2\na;b\n3;4\n", "line 3 repeats the header"),
        ("participant_id site\nx a\n", "one column 'participant_id site'; .* not by spaces"),
        (b"participant_id\tage\n\0\0\0", "zero bytes"),
    ],
)
def test_tables_that_cannot_be_read_say_why(tmp_path, content, sentence):
    with pytest.raises(HarmbenchError, match=f"participants.tsv.*{sentence}"):
        read(tmp_path, content)


def test_second_headers():
    table = pd.DataFrame({"participant_id": ["id", "x1", "x2"], "age": ["years", "20", "30"]})
    assert "'years' is in the column of numbers 'age'" in second_header(table)
    assert "'Age'" in second_header(table.assign(age=["Age", "x", "y"]))
    assert second_header(table.iloc[1:]) == ""
    assert second_header(table.assign(age=["a", "b", "c"])) == ""
