"""Where people stumble at the command line: ~, folders, scripts, completion, `check`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harmbench import __version__
from harmbench.cli.app import app
from harmbench.cli.command import VALUES
from harmbench.config import FILES, resolve
from harmbench.data.arrays import save_npz
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.files.foreign import at_home
from harmbench.study import default_folder, read_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder with a small study in it."""
    folder = tmp_path_factory.mktemp("study")
    cohort = ToyDataset(60).load()
    save_npz(cohort.with_covariates(age=cohort.column("age") / 2), folder / "toy.npz")
    return folder


def call(*words, cwd=None, monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.chdir(cwd)
    return CliRunner().invoke(app, list(map(str, words)))


# ~ ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Path("~/x"), Path("HOME/x")),
        ("~/x", "HOME/x"),
        ("ddae=~/x", "ddae=HOME/x"),
        (["a=~/x", "auto"], ["a=HOME/x", "auto"]),
        ("a~b", "a~b"),
        ("1=M,2=F", "1=M,2=F"),
        (None, None),
        (3, 3),
    ],
)
def test_a_tilde_is_the_home_folder(value, expected, monkeypatch):
    monkeypatch.setenv("HOME", "HOME")
    assert at_home(value) == expected


@pytest.mark.parametrize(
    "words",
    [
        ["phantom", "~/made", "--n", "30", "--size", "16", "--n-sites", "2"],
        ["export", "~/toy.npz", "--out=~/made"],
        ["check", "~/toy.npz", "--save", "~/made.toml", "--html=~/made.html", "--quiet"],
        ["run", "--methods", "blur", "--data=~/toy.npz", "--metrics", "distance_pcc",
         "--out=~/made", "--quiet", "--controls", "none"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_every_command_writes_to_the_home_folder(words, study, tmp_path, monkeypatch):
    shutil.copy(study / "toy.npz", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "here").mkdir()
    result = call(*words, cwd=tmp_path / "here", monkeypatch=monkeypatch)
    assert result.exit_code == 0, (result.output, result.exception)
    assert list(tmp_path.glob("made*"))
    assert not list((tmp_path / "here").glob("~*"))


def test_study_files_know_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "study.toml"
    file.write_text('data = "~/toy.npz"\nweights = ["ddae=~/w"]\ninception_weights = "~/i.pth"\n')
    found = read_study(file)
    assert found["data"] == f"{tmp_path}/toy.npz"
    assert found["weights"] == (f"ddae={tmp_path}/w",)
    assert found["inception_weights"] == tmp_path / "i.pth"


# Names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_data_set_that_needs_a_path_is_not_chosen_by_its_name(name, tmp_path, monkeypatch):
    result = call("check", name, cwd=tmp_path, monkeypatch=monkeypatch)
    assert isinstance(result.exception, HarmbenchError)
    assert "give its path instead of the name" in str(result.exception)


@pytest.mark.parametrize("name", ["bids", "phantom", "table"])
def test_a_folder_that_exists_wins(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    config = resolve(data=name, methods=["blur"])
    assert config.data.name == "bids"
    assert config.data.params["path"] == str(tmp_path / name)


@pytest.mark.parametrize(
    ("file", "words", "said"),
    [
        ("toy.npz", ["--slice-z", "3"], r"an .npz file has no data option 'z' \(--slice-z\)"),
        ("toy.npz", ["--features", "a"], "an .npz file has no data option 'features'"),
        ("toy.csv", ["--suffix", "T2w"], "a .csv or .tsv file has no data option 'suffix'"),
        (".", ["--features", "a"], r"a BIDS folder has no data option 'features' \(--features\)"),
    ],
)
def test_an_option_that_does_not_apply_is_one_sentence(file, words, said, study):
    result = call("check", study / file, *words)
    assert isinstance(result.exception, HarmbenchError)
    assert re.search(said + ".*leave it out. It has: ", str(result.exception))


# Default folders --------------------------------------------------------------------------------


def folder(study=None, root="results", **settings):
    options = settings.get("data_options", {})
    return default_folder(root, resolve(methods=["blur"], **settings), study, options)


def test_the_default_folder_is_named_after_what_is_run(study, tmp_path, monkeypatch):
    monkeypatch.chdir(study)
    plain = folder()
    assert plain == Path("results/phantom-standard")
    assert folder(preset="smoke") == Path("results/phantom-smoke")
    assert folder(data="toy.npz") == Path("results/toy-standard")
    assert folder(root="weights") == Path("weights/phantom-standard")
    # Seeds, methods and metrics extend a run; these make another one.
    assert folder(seeds=3) == plain
    others = [
        folder(data_options={"strength": 0.5}),
        folder(data_options={"strength": 0.7}),
        folder(data_seed=2),
        folder(reference_site="siteB"),
        folder(study=Path("study.toml")),
        folder(study=Path("study.toml"), data="toy.npz"),
    ]
    assert len({plain, *others}) == len(others) + 1
    assert others[0] == folder(data_options={"strength": 0.5})
    assert folder(study=Path("results/x/config.json")) == Path("results/x")


# Python -----------------------------------------------------------------------------------------


def test_jobs_without_a_guard_show_the_guard(study, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from harmbench.config import resolve\n"
        "from harmbench.engine.run import run\n"
        f"config = resolve(data={str(study / 'toy.npz')!r}, methods=['blur'],\n"
        "                 metrics=['distance_pcc'], threads=1)\n"
        f"run(config, Path({str(tmp_path / 'out')!r}), jobs=2)\n"
    )
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert 'put the call under `if __name__ == "__main__":`' in ended.stderr


# The program ------------------------------------------------------------------------------------


def test_the_version_is_told():
    assert call("--version").output.strip() == f"harmbench {__version__}"


@pytest.mark.parametrize("command", [[], ["run"], ["check"], ["report"], ["phantom"], ["methods"]])
def test_help_shows_flags_without_a_type_and_options_in_groups(command):
    text = call(*command, "--help").output
    assert "<bool>" not in text and "BOOLEAN" not in text
    if command == ["run"]:
        assert [g for g in ("What to run", "Data", "Machine", "Output") if g in text][3:]


def completed(*words):
    """Return what a shell offers for the last word."""
    environment = {
        **os.environ,
        "_HARMBENCH_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": " ".join(["harmbench", *words]),
    }
    code = "import sys; sys.argv = ['harmbench']; from harmbench.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert "torch" not in ended.stderr and "pandas" not in ended.stderr
    return ended.stdout


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["run", "--methods", "dd"], "ddae-blind"),
        (["run", "--methods", "combat", "gan", "cv"], "cvae"),
        (["run", "--metrics", "truth_"], "truth_ssim"),
        (["run", "--preset", "sm"], "smoke"),
        (["run", "--protocol", ""], "core"),
        (["run", "--controls", "combat", "mean"], "mean-image"),
        (["run", "--data", "phan"], "phantom-dev"),
        (["check", "--age-unit", "mo"], "months"),
        (["harmonize", "--method", "com"], "combat"),
    ],
)
def test_the_shell_completes_values(words, offered):
    assert offered in completed(*words)


@pytest.mark.parametrize(("ending", "separator"), [("tsv", "\t"), ("csv", ",")])
def test_the_shell_completes_the_sites_of_the_data(ending, separator, tmp_path):
    file = tmp_path / f"participants.{ending}"
    rows = ["participant_id centre", "sub-1 Oslo", "sub-2 Ostrava", "sub-3 Bonn"]
    file.write_text("\n".join(row.replace(" ", separator) for row in rows))
    data = tmp_path if ending == "tsv" else file
    words = ["run", "--data", str(data), "--site-column", "centre", "--reference-site", "Os"]
    offered = completed(*words)
    assert "Oslo" in offered and "Ostrava" in offered and "Bonn" not in offered
    assert "Oslo" not in completed("run", "--data", "nowhere", "--reference-site", "Os")


def test_the_values_offered_are_those_known():
    from harmbench.config import PRESETS, PROTOCOLS

    assert VALUES["preset"]() == list(PRESETS)
    assert VALUES["protocol"]() == list(PROTOCOLS)


# check ------------------------------------------------------------------------------------------


def test_check_says_first_what_a_run_can_answer(study):
    output = call("check", study / "toy.npz", "--quiet").output
    lines, said = output.splitlines(), " ".join(output.split())
    assert lines[0].startswith("A run can answer: ")
    assert "It cannot answer: " in said and "truth (needs a known truth" in said
    assert lines[-1].startswith("To run: harmbench run --methods combat --data ")


def test_check_writes_a_study_file_that_runs(study, tmp_path, monkeypatch):
    saved = tmp_path / "study.toml"
    words = ["check", study / "toy.npz", "--age-unit", "years", "--preset", "smoke", "--quiet"]
    assert call(*words, "--save", saved).exit_code == 0
    text = saved.read_text()
    again = call("check", "--config", saved, "--quiet")
    assert again.exit_code == 0 and "--age-unit years" in again.output
    result = call("run", "--methods", "blur", "--config", saved, "--dry-run", cwd=tmp_path,
                  monkeypatch=monkeypatch)  # fmt: skip
    assert result.exit_code == 0, result.exception
    assert "results/study-toy-smoke-" in result.output
    result = call(*words, "--save", saved)
    assert isinstance(result.exception, HarmbenchError) and saved.read_text() == text
