"""Arrays in blocks: the same values, and no more in memory than a block."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harmbench.contracts.cohort import Cohort
from harmbench.data import archive as npz
from harmbench.data.arrays import ArrayDataset
from harmbench.errors import HarmbenchError
from harmbench.files import blocks as room
from harmbench.files.atomic import read_rows, write_json, write_rows
from harmbench.results.folder import RunFolder

STATUS = Path("/proc/self/status")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(3).random((37, 8, 9)).astype(np.float32)


def archive(path: Path, images: np.ndarray, save=np.savez, **more) -> ArrayDataset:
    n = len(images)
    table = {
        "participant_id": np.array([f"p{i:03d}" for i in range(n)]),
        "site": np.array(["a", "b"])[np.arange(n) % 2],
        "age": np.linspace(20, 70, n),
        "sex": np.array(["F", "M"])[np.arange(n) // 2 % 2],
    }
    save(path, images=images, **table, **more)
    return ArrayDataset(path)


def held_of_files() -> float:
    """MiB of mapped files that this process holds; 0 where the system does not tell."""
    lines = STATUS.read_text(encoding="ascii").splitlines() if STATUS.exists() else []
    return next((int(line.split()[1]) for line in lines if line.startswith("RssFile")), 0) / 1024


def require_a_system_that_counts_mapped_pages(path: Path) -> None:
    """Skip where reading a mapped file, or closing it, does not show, as in some sandboxes."""
    before = held_of_files()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert sum(pages[:: mmap.PAGESIZE]) >= 0
        read = held_of_files() - before
    if not (read > 30 and held_of_files() - before < 4):
        pytest.skip("this system does not count the pages of mapped files that a process holds")


def test_blocks_cover_all_rows_in_order_and_hold_one_at_least() -> None:
    assert list(room.blocks(7, 10, limit=30)) == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert list(room.blocks(2, 10, limit=3)) == [slice(0, 1), slice(1, 2)]
    assert list(room.blocks(5, 10)) == [slice(0, 5)]
    assert list(room.blocks(0, 10)) == []


def test_an_array_written_in_parts_is_the_file_that_numpy_writes(tmp_path: Path, images) -> None:
    np.save(tmp_path / "whole.npy", images)
    parts = (images[rows] for rows in room.blocks(len(images), 1, limit=5))
    write_rows(tmp_path / "parts.npy", images.shape, np.float32, parts)
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("wrong", [lambda x: x[:-1], lambda x: x[:, :-1]])
def test_parts_that_are_not_the_whole_are_no_file(tmp_path: Path, images, wrong) -> None:
    with pytest.raises(ValueError, match=r"were made|none of an array"):
        write_rows(tmp_path / "x.npy", images.shape, np.float32, iter([wrong(images)]))
    assert list(tmp_path.iterdir()) == []


def test_rows_taken_from_a_file_leave_no_more_of_it_in_memory(tmp_path: Path, monkeypatch) -> None:
    whole = np.random.default_rng(0).random((640, 128, 128), dtype=np.float32)  # 40 MiB
    np.save(tmp_path / "x.npy", whole)
    require_a_system_that_counts_mapped_pages(tmp_path / "x.npy")
    array = read_rows(tmp_path / "x.npy")
    rows = np.random.default_rng(1).permutation(640)
    monkeypatch.setattr(room, "BLOCK", 2**20)
    before = held_of_files()
    some = room.take(array, rows)
    assert held_of_files() - before < 4
    assert np.array_equal(some, whole[rows])
    assert np.array_equal(room.all_finite(array), np.ones(640, bool))
    assert held_of_files() - before < 4
    assert float(array.sum()) > 0 and held_of_files() - before > 30, "what this test is about"
    room.release(array[3:5])
    assert held_of_files() - before < 4
    assert np.array_equal(array[7], whole[7])


def test_changes_of_a_private_mapping_are_not_let_go(tmp_path: Path, images) -> None:
    np.save(tmp_path / "x.npy", images)
    own = np.load(tmp_path / "x.npy", mmap_mode="c")
    own[0] = 5
    room.release(own)
    assert own[0].min() == 5


def test_a_cohort_on_disk_is_subset_and_given_other_images_without_being_read(
    tmp_path: Path, images
) -> None:
    np.save(tmp_path / "x.npy", images)
    n = len(images)
    table = pd.DataFrame({"participant_id": [f"p{i}" for i in range(n)], "session_id": ""})
    cohort = Cohort(read_rows(tmp_path / "x.npy"), table.assign(slice=0), images > 0.5)
    rows = np.array([30, 2, 2, 17])
    assert np.array_equal(cohort.subset(rows).images, images[rows])
    blank = np.broadcast_to(np.float32(0), (4, 8, 9))
    other = cohort.subset(rows, blank)
    assert other.images is blank
    assert list(other.column("participant_id")) == ["p30", "p2", "p2", "p17"]
    assert np.array_equal(other.mask, (images > 0.5)[rows])


def test_a_large_archive_stays_in_its_file_and_goes_to_the_store_in_parts(
    tmp_path: Path, images, monkeypatch
) -> None:
    mask = images > 0.3
    read = archive(tmp_path / "x.npz", images, mask=mask).load()
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    monkeypatch.setattr(room, "BLOCK", 1000)
    cohort = archive(tmp_path / "x.npz", images, mask=mask).load()
    assert isinstance(cohort.images, np.memmap) and isinstance(cohort.mask, np.memmap)
    assert not isinstance(read.images, np.memmap)
    for one in (read, cohort):
        assert np.array_equal(one.images, images) and np.array_equal(one.mask, mask)
    folder = RunFolder(tmp_path / "run")
    folder.save_cohort(cohort, cohort.participants[["participant_id"]])
    write_json(folder.config_file, {"space": cohort.space})
    stored = folder.cohort()
    assert isinstance(stored.images, np.memmap) and np.array_equal(stored.images, images)
    assert np.array_equal(stored.mask, mask)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_images_that_must_be_scaled_are_the_same_mapped_or_read(
    tmp_path: Path, images, monkeypatch, save
) -> None:
    raw = (1000 * images * (images > 0.2)).astype(np.float32)
    read = archive(tmp_path / "x.npz", raw, save).load()
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    cohort = archive(tmp_path / "x.npz", raw, save).load()
    assert np.array_equal(cohort.images, read.images) and np.array_equal(cohort.mask, read.mask)
    assert cohort.images.max() == 1


def test_a_damaged_archive_is_refused_though_it_is_only_mapped(
    tmp_path: Path, images, monkeypatch
) -> None:
    monkeypatch.setattr(npz, "LEAST_MAPPED", 1)
    path = tmp_path / "x.npz"
    dataset = archive(path, images)
    content = bytearray(path.read_bytes())
    content[content.find(images.tobytes()[:32]) + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(HarmbenchError, match="images' cannot be read"):
        dataset.load()
