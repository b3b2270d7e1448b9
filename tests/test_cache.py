"""Data sets that are kept for the whole machine."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

from harmbench.cli.app import app
from harmbench.data import cache
from harmbench.data.phantom import Phantom
from harmbench.data.toy import ToyDataset


class Kept(ToyDataset):
    """Notes every time that it is made."""

    cached = True

    def load(self, progress=None):
        made = Path(os.environ["HARMBENCH_CACHE"]) / f"made-{os.getpid()}-{time.monotonic_ns()}"
        made.touch()
        time.sleep(0.3)
        return super().load(progress)


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARMBENCH_CACHE", str(tmp_path))
    return tmp_path


def times_made(folder: Path) -> int:
    return len(list(folder.glob("made-*")))


def test_what_comes_from_the_cache_is_what_was_made(own: Path) -> None:
    phantom = Phantom(n=12, size=24)
    made, first, again = phantom.load(), cache.load_cohort(phantom), cache.load_cohort(phantom)
    assert len(cache.entries()) == 1
    for cohort in (first, again):
        assert_array_equal(cohort.images, made.images)
        assert_array_equal(cohort.mask, made.mask)
        assert cohort.keys == made.keys
        pd.testing.assert_frame_equal(cohort.participants, made.participants, check_dtype=False)
    assert isinstance(again.images, np.memmap)
    cache.load_cohort(Phantom(n=12, size=24, subject_seed=5))
    assert len(cache.entries()) == 2


def test_other_data_sets_are_not_kept() -> None:
    cache.load_cohort(ToyDataset())
    assert cache.entries() == []


def test_two_processes_make_it_once(own: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=cache.load_cohort, args=(Kept(),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
        assert process.exitcode == 0
    assert times_made(own) == 1


@pytest.mark.parametrize("cut", [0, 20])
@pytest.mark.parametrize("file", ["images.npy", "participants.csv", "mask.npy"])
def test_a_damaged_entry_is_made_again(own: Path, file: str, cut: int) -> None:
    whole = cache.load_cohort(Kept())
    path = cache.entries()[0] / file
    path.write_bytes(path.read_bytes()[:cut])
    again = cache.load_cohort(Kept())
    assert times_made(own) == 2
    assert_array_equal(again.images, Kept().load().images)
    assert len(whole) == len(again)


def test_a_cache_that_cannot_be_written_stops_nothing(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "file").touch()
    monkeypatch.setattr(cache, "cache_folder", lambda: own / "file")
    assert len(cache.load_cohort(Kept())) == 60


def test_the_command_lists_and_clears_it() -> None:
    assert "it holds nothing" in CliRunner().invoke(app, ["cache"]).output
    cache.load_cohort(Kept())
    listed = CliRunner().invoke(app, ["cache"]).output
    assert "toy-" in listed
    assert "MiB" in listed
    assert "deleted: 1" in CliRunner().invoke(app, ["cache", "--clear"]).output
    assert cache.entries() == []
