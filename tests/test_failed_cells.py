"""Whatever a method, a metric or the disk does is a row with its reason, and the rest is made."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import harmbench.data.toy
import reports
from harmbench import cli
from harmbench.config import RunConfig, build_dataset, resolve
from harmbench.engine.layout import prepare
from harmbench.engine.run import run
from harmbench.errors import HarmbenchError
from harmbench.progress import Progress
from harmbench.results.folder import RunFolder

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"
PLUGINS = """
import sys

import numpy as np
import torch
from harmbench import Estimate, Harmonizer, MethodInfo, MetricResult
from harmbench.contracts.metric import metric


class Good(Harmonizer):
    @property
    def info(self):
        return MethodInfo(type(self).__name__, type(self).__name__, "does a thing")

    def fit(self, cohort, context):
        return self

    def harmonize(self, cohort, target=None, *, context):
        return self.changed(np.array(cohort.images))

    def changed(self, images):
        return images

    def save(self, folder):
        pass

    @classmethod
    def load(cls, folder):
        return cls()


class Raises(Good):
    def fit(self, cohort, context):
        raise ValueError("two\\nlines")


class Exits(Good):
    def fit(self, cohort, context):
        sys.exit(0)


class Hungry(Good):
    def fit(self, cohort, context):
        np.ones((10**7, 10**7))


class Starved(Good):
    def fit(self, cohort, context):
        raise MemoryError


class HungryTorch(Good):
    def changed(self, images):
        return torch.empty(10**15)


class HungryGPU(Good):
    def changed(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


class Bytes(Good):
    def changed(self, images):
        return (255 * images).astype(np.uint8)


class Complex(Good):
    def changed(self, images):
        return np.fft.fft2(images)


class Words(Good):
    def changed(self, images):
        return images.astype(str)


class Nothing(Good):
    def changed(self, images):
        pass


class Huge(Good):
    def changed(self, images):
        return images.astype(float) * 1e300


class Double(Good):
    def changed(self, images):
        return images.astype(float)


class Unsaved(Good):
    def save(self, folder):
        raise RuntimeError("cannot save")


class Unplaced(Good):
    def save(self, folder):
        (folder / "sub/weights.txt").write_text("0")


class Jots(Good):
    def save(self, folder):
        (folder / "notes.json").write_text('{"seconds": 3}')
        (folder / "lines.json").write_text('{"a": 1}\\n{"a": 2}\\n')


class Unloaded(Good):
    @classmethod
    def load(cls, folder):
        raise RuntimeError("cannot load")


class Unsure(Good):
    def skip(self, cohort):
        raise RuntimeError("cannot say")


class Large(Good):
    def save(self, folder):
        (folder / "large").write_bytes(b"0" * 20_000_000)


def declared(function):
    told = {"axis": "quality", "level": "five", "direction": "higher"}
    return metric(label=function.__name__, needs=("harmonized.test",), **told)(function)


@declared
def returns_nothing(inputs, rng):
    "Nothing."


@declared
def returns_objects(inputs, rng):
    "Objects."
    return MetricResult(Estimate(1.0, n=1), arrays={"x": np.array([{}], dtype=object)})


@declared
def returns_nan(inputs, rng):
    "No number."
    return MetricResult(Estimate(float("nan"), n=1), arrays={"x": np.ones(1)})


@declared
def raises(inputs, rng):
    "An error."
    raise KeyError("no such thing")


@declared
def exits(inputs, rng):
    "An end."
    sys.exit(3)
"""
REASONS = {
    "Raises": "fit: ValueError: two lines",
    "Exits": "fit: it asked the program to end, with code 0",
    "Hungry": "fit: out of memory (Unable to allocate 728. TiB",
    "Starved": "fit: out of memory",
    "HungryTorch": "harmonized.test: out of memory (",
    "HungryGPU": "harmonized.test: out of memory (CUDA out of memory. Tried to",
    "Bytes": "returned images of type uint8; float32 is asked for",
    "Complex": "returned images of type complex",
    "Words": "returned images of type <U",
    "Nothing": "returned images of shape ()",
    "Huge": "returned NaN or infinite values",
    "Unsaved": "fit: RuntimeError: cannot save",
    "Unplaced": "fit: FileNotFoundError: [Errno 2] No such file or directory: 'sub/weights.txt'",
    "Unloaded": "fit: RuntimeError: cannot load",
    "Unsure": "RuntimeError: cannot say",
}
METRICS = {
    "returns_nothing": "returned NoneType; it must return a number",
    "returns_objects": "TypeError: array 'x' holds Python objects",
    "returns_nan": "the metric returned a value that is not finite",
    "raises": "KeyError: 'no such thing'",
    "exits": "it asked the program to end, with code 3",
}


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(PLUGINS)
    return file


def config(*methods: str, **settings: Any) -> RunConfig:
    told = {"data": TOY, "methods": methods, "metrics": ["distance_pcc"], "threads": 1}
    return resolve(**told | settings)


def assert_failed(scores: pd.DataFrame, by: str, reasons: dict[str, str]) -> None:
    failed = scores[scores[by].isin(list(reasons))]
    assert set(failed["status"]) == {"failed"}
    for name, text in failed[[by, "reason"]].itertuples(index=False):
        assert text.startswith(reasons[name]) or reasons[name] in text
        assert "\n" not in text
    rest = scores[~scores[by].isin(list(reasons))]
    assert set(rest["status"]) == {"ok"}


def test_every_way_to_fail_is_a_row_with_its_reason(tmp_path: Path, plugins: Path) -> None:
    names = [*REASONS, "Good", "Double", "Jots"]
    summary = run(config(*(f"{plugins}:{name}" for name in names)), tmp_path / "out")
    assert set(names) < set(summary.scores["label"])
    assert_failed(summary.scores, "label", REASONS)
    assert len(summary.failed) == len(REASONS)


def test_a_metric_that_fails_is_a_row_with_its_reason(tmp_path: Path, plugins: Path) -> None:
    metrics = ["distance_pcc", *(f"{plugins}:{name}" for name in METRICS)]
    summary = run(config(f"{plugins}:Good", metrics=metrics), tmp_path / "out")
    assert_failed(summary.scores, "metric", METRICS)


def harmbench_run(monkeypatch: pytest.MonkeyPatch, out: Path, *methods: str) -> int:
    """Return the exit code of the command, without the pictures of the report."""
    words = ("--data", TOY, "--metrics", "distance_pcc", "--out", str(out), "--quiet")
    monkeypatch.setattr("sys.argv", ["harmbench", "run", "--methods", *methods, *words])
    monkeypatch.setattr(reports, "build", lambda folder: folder)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command_ends_with_code_1_and_names_what_failed(
    tmp_path: Path,
    plugins: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert harmbench_run(monkeypatch, tmp_path / "out", f"{plugins}:Good") == 0
    assert harmbench_run(monkeypatch, tmp_path / "out", f"{plugins}:Exits") == 1
    assert "failed: Exits: fit: it asked the program to end" in capsys.readouterr().err


# -- disks --------------------------------------------------------------------------------------


@contextmanager
def mounted(place: Path, options: str) -> Iterator[Path]:
    """Mount a small disk in memory at a place, where that is allowed."""
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(place)], check=False)
    if done.returncode:
        pytest.skip("nothing may be mounted here; the same errors are injected elsewhere")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_fails_the_cell_that_fills_it(tmp_path: Path, plugins: Path) -> None:
    with mounted(tmp_path / "disk", "size=8m") as disk:
        scores = run(config(f"{plugins}:Large", f"{plugins}:Good"), disk / "out").scores
        assert_failed(scores, "label", {"Large": "fit: no space is left on the disk"})


def test_a_folder_closed_for_writing_fails_its_cell(tmp_path: Path) -> None:
    out, told = tmp_path / "out", config("blur")
    run(config(), out)
    cells = prepare(RunFolder(out), told, build_dataset(told), Progress()).cells
    place = next(out / "cells" / c.folder.parents[0] for c in cells if c.spec.name == "blur")
    with mounted(place, "ro"):
        scores = run(told, out).scores
        reason = "fit: no right to write or read (Read-only file system)"
        assert_failed(scores, "label", {"blur": reason})
    again = run(told, out)
    assert not again.failed, "a failure was kept"


def test_a_disk_that_takes_nothing_is_one_sentence_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        assert harmbench_run(monkeypatch, disk / "out", "blur") == 2
    said = capsys.readouterr().err
    assert "cannot be written" in said and "Read-only file system" in said
    assert said.count("\n") == 1


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, str], None]:
    """Return a function that makes the store's writes fail, at places that match a pattern."""
    originals = {name: getattr(tempfile, name) for name in ("mkstemp", "mkdtemp")}

    def broken(number: int, pattern: str) -> None:
        for name, original in originals.items():

            def made(suffix: str = "", *, prefix: str, dir: Path, original: Any = original) -> Any:
                if re.search(pattern, f"{dir}{suffix}"):
                    raise OSError(number, os.strerror(number), f"{dir}/{prefix}x{suffix}")
                return original(suffix=suffix, prefix=prefix, dir=dir)

            monkeypatch.setattr(f"harmbench.results.folder.tempfile.{name}", made)

    return broken


@pytest.mark.parametrize(
    ("number", "pattern", "reason"),
    [
        (errno.ENOSPC, "/blur-", "no space is left on the disk"),
        (errno.EROFS, "/blur-", "no right to write or read (Read-only file system)"),
        (errno.ENOSPC, "/blur-.*/products", "harmonized.test: no space is left on the disk"),
        (errno.ENOSPC, "/blur-.*/scores", "no space is left on the disk"),
    ],
)
def test_a_disk_that_fails_at_one_cell_fails_that_cell(
    tmp_path: Path, broken: Any, number: int, pattern: str, reason: str
) -> None:
    broken(number, pattern)
    scores = run(config("blur", "combat"), tmp_path / "out").scores
    assert_failed(scores, "label", {"blur": reason})


def test_a_disk_that_is_full_at_the_end_keeps_what_is_done(
    tmp_path: Path,
    broken: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    broken(errno.ENOSPC, "/out.csv$")
    assert harmbench_run(monkeypatch, out, "blur") == 2
    said = capsys.readouterr().err
    assert "no space is left on the disk" in said and "the same command goes on" in said
    assert said.count("\n") == 1
    made = {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*.*") if p.name != "log.txt"}
    broken(errno.ENOSPC, "nowhere")
    assert harmbench_run(monkeypatch, out, "blur") == 0
    assert made.items() <= {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*.*")}.items()


def test_a_folder_deleted_in_mid_run_ends_it(tmp_path: Path, plugins: Path) -> None:
    out = tmp_path / "out"
    text = PLUGINS.replace("sys.exit(0)", f"__import__('shutil').rmtree({str(out)!r}); return self")
    plugins.write_text(text)
    with pytest.raises(HarmbenchError, match="was moved or deleted while its run was at work"):
        run(config(f"{plugins}:Exits", "blur"), out)
