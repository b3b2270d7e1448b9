"""What a worker does with an order, seen in this process; claims on the board."""

from __future__ import annotations

import pickle
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import harmbench.data.toy
from harmbench import registry
from harmbench.config import build_dataset, resolve
from harmbench.engine import board as boards
from harmbench.engine.board import Board, Closed, opened
from harmbench.engine.keys import Cell
from harmbench.engine.nodes import Bench
from harmbench.engine.run import Layout, prepare, store
from harmbench.engine.worker import Order, stage_keys, work
from harmbench.files.atomic import read_json, write_json
from harmbench.progress import Progress
from harmbench.results.folder import RunFolder, Stage

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    config = resolve(data=TOY, metrics=["distance_pcc", "truth_mae"], threads=1)
    laid = prepare(RunFolder(tmp_path / "out"), config, build_dataset(config), Progress())
    store(laid)
    return laid


def order(layout: Layout, board: Board, cell: Cell) -> Order:
    """Return the order for a cell as it arrives elsewhere."""
    bench = layout.bench
    keys = replace(bench.keys, products={})
    made = Order(board.root, board.token, 0, cell, keys, {}, stage_keys(bench.work(cell)))
    sent = pickle.dumps(made)
    assert len(sent) < 30_000, "an order holds data"
    return pickle.loads(sent)


def test_an_order_is_worked_as_here(layout: Layout) -> None:
    bench, cell = layout.bench, layout.cells[-1]
    with opened(bench.folder.root) as board:
        answer = work(order(layout, board, cell))
        assert board.notes() == {}, "a note is left"
    assert answer.complaint == ""
    assert [record["status"] for record in answer.records] == ["ok", "ok"]
    marks = [bench.work(cell).score_stage(name).mark for name in bench.metrics]
    write_json(bench.folder.root / "answer.json", answer.records)
    assert read_json(bench.folder.root / "answer.json") == marks


def test_a_worker_with_other_code_says_so_and_does_nothing(layout: Layout) -> None:
    with opened(layout.bench.folder.root) as board:
        told = order(layout, board, layout.cells[0])
        answer = work(replace(told, expected=("0" * 32, *told.expected[1:])))
    assert "has other code" in answer.complaint
    assert not (layout.bench.folder.root / "cells").exists()


def test_a_worker_that_does_not_see_the_folder_says_so(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boards, "SECONDS_TO_SEE", 0.0)
    with opened(layout.bench.folder.root) as board:
        told = order(layout, board, layout.cells[0])
    answer = work(told)
    assert f"does not see the folder {board.root}" in answer.complaint


def test_a_cell_ends_at_its_next_step_when_the_driver_has_gone(layout: Layout) -> None:
    root = layout.bench.folder.root
    with opened(root) as board:
        told = order(layout, board, layout.cells[0])
        folder = board.folder
        bench = replace(layout.bench, claim=board.claim, _works={})
        shutil.rmtree(folder)
        with pytest.raises(Closed):
            bench.work(told.cell).score("distance_pcc")
        with pytest.raises(Closed):
            board.put("me", {})
    assert not list(root.rglob("distance_pcc*"))


def test_of_several_one_does_a_stage_and_the_others_find_it(layout: Layout) -> None:
    made: list[str] = []
    stage = Stage(layout.bench.folder.root / "raw", "thing", "0123456789abcdef")

    def make() -> None:
        made.append(threading.current_thread().name)
        time.sleep(0.05)
        stage.complete(stage="thing", seconds=0.0)

    with opened(layout.bench.folder.root) as board:
        bench = replace(layout.bench, claim=board.claim)
        threads = [threading.Thread(target=Bench.settle, args=(bench, stage, make)) for _ in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1


def test_a_new_driver_closes_the_board_of_one_that_was_killed(tmp_path: Path) -> None:
    killed = opened(tmp_path)
    old = killed.__enter__()
    with opened(tmp_path) as new:
        assert new.is_open
        assert not old.is_open
    assert list(tmp_path.iterdir()) == []


def test_an_edited_plugin_is_loaded_anew_by_the_next_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    ids = set()
    for value in ("1", "2"):
        file.write_text(f"THING = {value}")
        registry.refresh()
        assert int(value) == registry.load("method", f"{file}:THING")
        ids.add(registry.code_id("method", f"{file}:THING"))
        file.write_text("THING = 3")
        assert int(value) == registry.load("method", f"{file}:THING"), "edited in mid-run"
        ids.add(registry.code_id("method", f"{file}:THING"))
    assert len(ids) == 2, "what is loaded and its hash are not of one text"
