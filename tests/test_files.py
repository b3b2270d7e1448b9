"""Files that are there whole or not at all, and folders that one process holds."""

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harmbench.errors import HarmbenchError
from harmbench.files.atomic import (
    LOCK,
    UNFINISHED,
    held,
    read_arrays,
    read_json,
    sweep,
    write_arrays,
    write_atomic,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, fail)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": [np.float32(1.5), np.int64(2)]})
    assert read_json(tmp_path / "x.json") == {"a": None, "b": [1.5, 2]}
    json.loads((tmp_path / "x.json").read_text(), parse_constant=lambda c: pytest.fail(c))


def test_arrays_round_trip_and_refuse_objects(tmp_path: Path) -> None:
    arrays = {"x": np.arange(6.0).reshape(2, 3), "sites": np.array(["a", "bcd"])}
    write_arrays(tmp_path / "x.npz", arrays)
    for name, array in read_arrays(tmp_path / "x.npz").items():
        np.testing.assert_array_equal(array, arrays[name])
    with pytest.raises(TypeError, match="Python objects"):
        write_arrays(tmp_path / "y.npz", {"x": np.array([{}], dtype=object)})


def _limit_is_kept(file: Path, most: int) -> bool:
    try:
        file.write_bytes(b"0" * (most + 1))
    except OSError:
        return True
    finally:
        file.unlink(missing_ok=True)
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on the size of files there")
@pytest.mark.parametrize("bytes_left", [0, 100, 5000])
def test_a_full_disk_is_an_error_and_no_noise(tmp_path: Path, bytes_left: int) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, before[1]))
    heard: list[Any] = []
    hook, sys.unraisablehook = sys.unraisablehook, heard.append
    try:
        if not _limit_is_kept(tmp_path / "probe", bytes_left):
            pytest.skip("this system keeps no limit on the size of files")
        with pytest.raises(OSError, match="File too large"):
            write_arrays(tmp_path / "x.npz", {"a": np.arange(300), "b": np.zeros(9000)})
        gc.collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.unraisablehook = hook
    assert not heard
    assert not os.listdir(tmp_path)


def test_what_was_being_written_is_swept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / f"{UNFINISHED}a/b").mkdir(parents=True)
    (tmp_path / f"{UNFINISHED}a/b/x.npy").touch()
    for name in (f"{UNFINISHED}c.csv", "unfinished.csv", "kept"):
        (tmp_path / name).touch()
    sweep(tmp_path.rglob("*"))
    assert sorted(os.listdir(tmp_path)) == ["kept", "unfinished.csv"]


def test_a_folder_is_held_by_one_file_for_good(tmp_path: Path) -> None:
    """Were it deleted, one who has it open and one who makes it anew would both hold the folder."""
    folder = tmp_path / "a/b"
    with held(folder, "test"):
        first = (folder / LOCK).stat().st_ino
        refused = pytest.raises(HarmbenchError, match=f"another test is working in {folder}")
        with refused, held(folder, "test"):
            pytest.fail("two at once")
    with held(folder, "test"):
        assert (folder / LOCK).stat().st_ino == first


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HarmbenchError, match="cannot be written"), held(tmp_path / "file", "test"):
        pytest.fail("held")


def test_errors_of_the_work_itself_pass_and_free_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of the work"), held(tmp_path, "test"):
        raise OSError("of the work")
    with held(tmp_path, "test"):
        pass
