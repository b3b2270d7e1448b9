import multiprocessing
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harmbench.contracts.cohort import Cohort
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_json
from harmbench.results.folder import RunFolder, Stage

IDENTITY = {"data": "toy", "fingerprint": "abc", "data_seed": 0}


def start(folder: RunFolder, identity: dict = IDENTITY) -> None:
    folder.begin(identity)
    write_json(folder.config_file, {"identity": identity, "space": "slice"})


def test_a_stage_counts_only_with_its_mark_and_key(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "probe.age", "k" * 32)
    stage.file(".npz").write_bytes(b"payload without a mark")
    assert stage.mark is None
    stage.complete(seconds=1.5)
    assert stage.mark == {"key": "k" * 32, "seconds": 1.5}
    same_start = Stage(tmp_path, "probe.age", "k" * 8 + "x" * 24)
    assert same_start.mark is None, "keys that share their first digits are not the same key"
    stage.file(".json").write_text("{")
    assert stage.mark is None, "a torn mark is no mark"


def test_losing_the_race_for_a_folder_is_success(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "fit", "k" * 32)
    stage.write_folder(lambda folder: (folder / "a").write_text("first") and None)
    stage.write_folder(lambda folder: (folder / "a").write_text("second") and None)
    assert (stage.stem / "a").read_text() == "first"
    assert os.listdir(tmp_path) == [stage.stem.name]


def test_a_folder_with_another_run_is_refused_naming_the_difference(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    start(folder)
    folder.begin(IDENTITY)
    with pytest.raises(HarmbenchError, match="fingerprint is 'abc' there and 'xyz' here"):
        folder.begin({**IDENTITY, "fingerprint": "xyz"})


def test_a_folder_with_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(HarmbenchError, match="files that are not a run's"):
        RunFolder(tmp_path).begin(IDENTITY)
    with pytest.raises(HarmbenchError, match="is a file"):
        RunFolder(tmp_path / "thesis.docx").begin(IDENTITY)


def hold(root: Path, locked: object, release: object) -> None:
    with RunFolder(root).lock():
        locked.set()  # type: ignore[attr-defined]
        release.wait(20)  # type: ignore[attr-defined]


def test_two_drivers_on_one_folder_are_refused(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    locked, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(tmp_path, locked, release))
    other.start()
    try:
        assert locked.wait(20)
        with (
            pytest.raises(HarmbenchError, match="another run is working"),
            RunFolder(tmp_path).lock(),
        ):
            pass
    finally:
        release.set()
        other.join()
    with RunFolder(tmp_path).lock():
        assert True, "free again"


def test_a_cohort_that_fails_its_check_is_not_there(tmp_path: Path) -> None:
    cohort = ToyDataset(5).load()

    def check() -> None:
        assert (tmp_path / "data/images.npy").is_file(), "after all is read"
        raise HarmbenchError("changed")

    with pytest.raises(HarmbenchError, match="changed"):
        RunFolder(tmp_path).save_cohort(cohort, cohort.participants, check)
    assert not RunFolder(tmp_path).has_cohort


def test_cohort_round_trip(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "participant_id": ["001", "NA", "p3"],
            "session_id": ["", "1", ""],
            "slice": 0,
            "site": ["1", "2", "1"],
            "age": [20.1, np.nan, 1 / 3],
            "sex": ["F", np.nan, "M"],
        }
    )
    images = np.random.default_rng(0).random((3, 7, 9), dtype=np.float32)
    cohort = Cohort(images, table, images > 0.5)
    folder = RunFolder(tmp_path)
    start(folder)
    folder.save_cohort(cohort, table[["participant_id"]].assign(part="fit"))
    back = folder.cohort()
    np.testing.assert_array_equal(back.images, images)
    np.testing.assert_array_equal(back.mask, images > 0.5)
    pd.testing.assert_frame_equal(back.participants, table, check_dtype=False)
    assert back.keys == cohort.keys
    assert isinstance(back.images, np.memmap)
