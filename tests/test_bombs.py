"""Small files that promise much: refused before anything is allocated, and at once."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from harmbench.config import resolve
from harmbench.data.spellings import read_sexes
from harmbench.data.table_files import read_table
from harmbench.errors import HarmbenchError
from harmbench.study import read_study

ROOT = Path(__file__).parents[1]


def header(**fields: object) -> bytes:
    known = nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.diag([3.0, 3, 3, 1])).header.copy()
    for name, value in fields.items():
        known[name] = value
    return known.binaryblock


def extension(esize: int) -> bytes:
    return header(vox_offset=1024) + b"\1\0\0\0" + struct.pack("<ii", esize, 6)


HEADERS = {
    "dim": header(dim=[7, *[32767] * 7]),
    "dim wraps to 0": header(dim=[4, 32767, 32767, 16384, 16384, 1, 1, 1]),
    "dim < 0": header(dim=[3, -4, 5, 6, 1, 1, 1, 1]),
    "many for the file": header(dim=[3, 640, 640, 640, 1, 1, 1, 1]),
    "offset": header(vox_offset=3e9),
    "offset < 0": header(vox_offset=-3e9),
    "offset NaN": header(vox_offset=np.nan),
    "objects": header(datatype=1),
    "complex": header(datatype=1792),
    "RGB": header(datatype=128),
    "sform NaN": header(sform_code=1, srow_x=[np.nan] * 4),
    "sform inf": header(sform_code=1, srow_y=[np.inf] * 4),
    "quaternion": header(sform_code=0, qform_code=1, quatern_b=9.0),
    "extension to the end": extension(7),
    "extension of nothing": extension(0),
    "extension < 0": extension(-(2**31)),
    "header only": header()[:200],
}
"""All stand before the same gigabyte of zeros."""


def run_apart(code: str, *arguments: object, megabytes: int = 200) -> str:
    """Run code in a process of its own; return what it says, and hold it to its memory and time."""
    start = "import sys, resource\nfrom harmbench.errors import HarmbenchError\n"
    end = (
        "\ndef peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before = peak()\n"
        "for one in sys.argv[1:]:\n"
        "    try: load(one); print('read', one)\n"
        "    except HarmbenchError as error: print('refused:', error)\n"
        "print('grown by', peak() - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", start + code + end, *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    *lines, last = done.stdout.splitlines()
    assert float(last.removeprefix("grown by ")) < megabytes, last
    return "\n".join(lines)


READ_SCAN = """
from pathlib import Path
from harmbench.data.nifti import read_scan
from harmbench.data.bids_layout import Scan
from harmbench.data.preprocess import PreprocessConfig
def load(file): read_scan(Scan("sub-1", "", Path(file), None), PreprocessConfig(16))
"""


def test_bombs_and_absurd_headers_are_refused_before_allocation(tmp_path: Path) -> None:
    """A megabyte that unpacks to a gigabyte, and the same start before eight of nothing."""
    tail = gzip.compress(bytes(1 << 20), 9) * 1024
    files = []
    for name, start in HEADERS.items():
        file = tmp_path / f"{name}.nii.gz"
        file.write_bytes(gzip.compress(start, 9) + tail)
        files.append(file)
        if name != "many for the file":  # they would fit
            bare = tmp_path / f"{name}.nii"
            bare.write_bytes(start)
            os.truncate(bare, 2**33)
            files.append(bare)
    said = run_apart(READ_SCAN, *files).splitlines()
    assert len(said) == len(files) and all(line.startswith("refused") for line in said), said


def npy_header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(path: Path, start: bytes, megabytes: int, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("images.npy", "w") as member:
        member.write(start)
        for _ in range(megabytes):
            member.write(bytes(1 << 20))
    return path


ARRAYS = {
    "bomb": (npy_header("(300, 512, 512)"), 300, zipfile.ZIP_DEFLATED),
    "bzip2": (npy_header("(512, 512, 2)"), 2, zipfile.ZIP_BZIP2),
    "absurd shape": (npy_header(f"({10**6}, {10**6}, 10)"), 1, 8),
    "wraps to 0": (npy_header(f"({2**32}, {2**32})"), 1, 8),
    "wraps below 0": (npy_header(f"(-1, {2**40})"), 1, 8),
    "texts of no width": (npy_header(f"({10**12},)", "'<U0'"), 1, 8),
    "one huge text": (npy_header("(1,)", f"'<U{2**29}'"), 1, 8),
    "header without end": (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", 300, 8),
    "nested header": (npy_header("(" * 9000), 1, 8),
    "objects": (npy_header("(4,)", "'|O'"), 1, 8),
}  # fmt: skip

READ_NPZ = """
from pathlib import Path
from harmbench.data.arrays import ArrayDataset
def load(file): ArrayDataset(Path(file)).load()
"""


def test_archives_that_promise_too_much_are_refused_before_allocation(tmp_path: Path) -> None:
    files = [zipped(tmp_path / f"{name}.npz", *of) for name, of in ARRAYS.items()]
    assert max(file.stat().st_size for file in files) < 2**21
    said = run_apart(READ_NPZ, *files).splitlines()
    assert len(said) == len(files) and all(line.startswith("refused") for line in said), said


def test_tables_too_wide_or_too_long_are_refused_at_once(tmp_path: Path) -> None:
    start = time.perf_counter()
    file = tmp_path / "participants.tsv"
    for text, sentence in (
        (("a" + "\t" * 10**6 + "\n") * 2, "1,000,001 columns"),
        ("\t".join(f"c{i}" for i in range(50_000)) + "\n" + "a" * 140_000, "field larger"),
        ("a\tb\n" + "1\t2\t3" * 10**5, "fields, the header 2"),
        ('a\tb\n"' + "x\n" * 10**5, "correct its quotes"),
    ):
        file.write_text(text)
        with pytest.raises(HarmbenchError, match=sentence):
            read_table(file)
    file.write_text("a\n")
    os.truncate(file, 2**40)
    with pytest.raises(HarmbenchError, match="no table is so large"):
        read_table(file)
    assert time.perf_counter() - start < 30


@pytest.mark.parametrize("text", ["9" * 5000, "-" + "0" * 120_000, "1." + "0" * 120_000 + "x"])
def test_numbers_without_end_are_a_sex_like_any_other(text: str) -> None:
    _, faults = read_sexes(pd.Series([text, "M"]))
    assert list(faults) == [0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("study.toml", "x = " + "[" * 5000),
        ("study.toml", "data_options = " + "{a = " * 2000),
        ("study.toml", "seeds = " + "9" * 5000),
        ("study.toml", "seeds = 0"),
        ("study.toml", f"seeds = {10**18}"),
        ("study.toml", "threads = -1"),
        ("study.toml", "data_seed = -1"),
        ("study.toml", "# " + "x" * 2**20),
        ("config.json", "[" * 10**6),
        ("config.json", '{"run": {"data": {"name": "\\ud800"}}}'),
        ("config.json", '{"run": ' + "9" * 5000 + "}"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, file: str, text: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(HarmbenchError):
        resolve(**read_study(tmp_path / file))


def test_a_study_file_without_end_is_refused() -> None:
    with pytest.raises(HarmbenchError, match="no study file"):
        read_study(Path("/dev/zero"))
