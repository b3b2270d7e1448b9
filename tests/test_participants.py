from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harmbench.data import spellings
from harmbench.data.covariates import Columns, clean
from harmbench.errors import HarmbenchError


def test_sexes_and_codes():
    text = pd.Series(["M", "f", "Male", "FEMALE", "other", np.nan, "1", "2.0", "02", "x"])
    values, faults = spellings.read_sexes(text, spellings.parse_codes("1=M, 2=female"))
    assert list(values[:4]) == ["M", "F", "M", "F"] and values[4:6].isna().all()
    assert list(values[6:9]) == ["M", "F", "F"] and list(faults) == [9]
    assert "one of the codes 1, 2, F, M, or n/a" in faults[9]
    assert 6 in spellings.read_sexes(text)[1]


@pytest.mark.parametrize("text", ["1", "1=M", "1=M,2=boy", "=M,2=F", "M=1,F=2"])
def test_codes_that_say_too_little_are_refused(text):
    with pytest.raises(HarmbenchError, match="--sex-codes"):
        spellings.parse_codes(text)


def test_codes_from_levels_and_names():
    levels = {"1": "Male", "2": {"Description": "female sex"}, "9": "not stated"}
    assert spellings.codes_from_levels(levels) == {"1": "M", "2": "F", "9": ""}
    assert spellings.codes_from_levels({"1": "male or female", "2": "female"}) == {}
    assert spellings.codes_from_levels("M") == {}
    assert spellings.codes_from_name("SEX_ID (1=m, 2=f)") == "1=M,2=F"
    assert spellings.codes_from_name("sex (0:female, 1:male)") == "0=F,1=M"
    assert spellings.codes_from_name("sex") == ""


def test_faults_name_the_file_and_line_of_the_value():
    table = pd.DataFrame(
        {"participant_id": ["sub-1", "sub-2"], "session_id": ["", "ses-b"], "group": ["x", np.nan],
         "age": ["20", "?!"], "sex": ["M", "9"]}
    )  # fmt: skip
    sources = [{}, {"age": "sub-2_sessions.tsv, line 3", "group": "participants.tsv, line 7"}]
    _, problems, _ = clean(table, sources, Columns(site="group", sex_codes="1=M,2=F"))
    said = [str(problem) for problem in problems]
    assert any(s.startswith("sub-2_sessions.tsv, line 3, sub-2 ses-b: age '?!'") for s in said)
    assert any(s.startswith("participants.tsv, line 7, sub-2 ses-b: the site is") for s in said)
    assert any("sex '9' is not known; write one of the codes 1, 2" in s for s in said)
    assert {problem.scan for problem in problems} == {("sub-2", "ses-b")}
