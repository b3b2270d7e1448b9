"""Damaged and hostile files: every loader returns what holds, or raises the one error of ours."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import signal
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from support import CARD, made_up_scan, save_bids_scan

from harmbench.config import build_dataset, resolve
from harmbench.contracts.cohort import Cohort
from harmbench.data.arrays import ArrayDataset
from harmbench.data.bids import BIDSDataset
from harmbench.data.bids_layout import Scan
from harmbench.data.nifti import read_scan
from harmbench.data.preprocess import PreprocessConfig
from harmbench.data.tables import TableDataset
from harmbench.errors import HarmbenchError
from harmbench.exchange.returned import read_slice
from harmbench.files.models import load_model, save_model
from harmbench.study import read_study
from harmbench.training.cards import read_card

MANY = int(os.environ.get("HARMBENCH_FUZZ", "100_000"))
"""Inputs of all loaders together in `nox -s faults`."""
FEW = 50
"""Inputs of each loader in the ordinary suite, where hypothesis makes what fails small."""
SECONDS = 10
"""Longest that one input may take, on a busy machine."""
MEMORY = 2**29
"""Bytes by which the process may grow, whatever the files promise."""
SHAPE = (14, 12)

NUMBERS = [0, 1, -1, 2, 7, 8, 15, 16, 127, 255, 348, 352, 540, 32767, -32768, 65535, 2**31 - 1]
FLOATS = [0.0, -1.0, 1e-38, 1e38, 352.0, 4e9, float("nan"), float("inf"), float("-inf")]
FIELDS = [(0, "i"), *((i, "h") for i in range(40, 56, 2)), (68, "h"), (70, "h"), (72, "h"),
          *((i, "f") for i in range(76, 124, 4)), (123, "b"), (252, "h"), (254, "h"),
          *((i, "f") for i in range(256, 328, 4)),
          *((i, "i") for i in range(344, 360, 4))]  # fmt: skip
"""Where the fields of a NIfTI 1 header and of its first extension stand, and their type."""
WORDS = [
    "", "n/a", "nan", "inf", "-1", "1e400", "9" * 5000, "0x10", "1_0", "٣", "²", "M", "1", "89+",
    "site", "age", "sex", "slice", "session_id", "part", "participant_id", "../../x", "/etc",
    "\0", "\x1b[2J", "\u202e", "<script>", "$x_{$", '"', "'", "\t", ",", ";", "\n", "\r", "\ufeff",
    "=", "[", "]", "{", "}", "[[", "[" * 3000, "{" * 3000, "a." * 500, "true", "null", "0.5",
    "1979-05-27", '"""', "sub-", "ses-", "NaN", "Infinity",
    "NA", "#DIV/0!", "<0.01", "1,5", "1.234,5", "3.2 mm", "1E+05", "018M", "\u2212", "sep=;",
    "-0.0", "1e-400", "\\ud800",
]  # fmt: skip
VALUES = [
    None, True, False, 0, -1, 3, 10**30, 0.5, 1e308, float("nan"), float("-inf"), [], {}, [[]],
    [1, "a"], {"a": 1}, ["identity"], [None] * 9, "\ud83d", *WORDS,
]  # fmt: skip
"""What may stand anywhere in a JSON file."""


def damaged(rng: Random, files: list[bytes], header: bool = False) -> bytes:
    """Return a valid file with one to four edits: bits, numbers, blocks, words, its end."""
    data = bytearray(rng.choice(files))
    kinds = ["flip", "cut", "number", "copy", "drop", "word"] + ["field"] * (6 * header)
    for _ in range(rng.randint(1, 4)):
        kind, at = rng.choice(kinds), rng.randrange(len(data) + 1)
        if kind == "flip" and at < len(data):
            data[at] ^= rng.randint(1, 255)
        elif kind == "cut":
            del data[at:]
        elif kind == "number":
            data[at : at + 4] = struct.pack(rng.choice("<>") + "i", rng.choice(NUMBERS))
        elif kind == "field":
            at, code = rng.choice(FIELDS)
            number = struct.pack("<f", rng.choice(FLOATS)) if code == "f" else packed_integer(rng)
            data[at : at + struct.calcsize(code)] = number[: struct.calcsize(code)]
        elif kind == "word":
            data[at : at + rng.randint(0, 9)] = rng.choice(WORDS).encode()
        else:
            begin, length = rng.randrange(len(data) + 1), rng.randint(0, 400)
            block = rng.choice(files)[begin : begin + length] if kind == "copy" else b""
            data[at : at + rng.randint(0, length)] = block
    return bytes(data)


def packed_integer(rng: Random) -> bytes:
    return rng.choice(NUMBERS).to_bytes(8, "little", signed=True)


def edited(rng: Random, text: str, separator: str) -> bytes:
    """Return a table with some cells replaced; sometimes it is damaged instead."""
    if rng.random() < 0.4:
        return damaged(rng, [text.encode()])
    lines = [line.split(separator) for line in text.splitlines()]
    for _ in range(rng.randint(1, 3)):
        cells = rng.choice(lines)
        cells[rng.randrange(len(cells))] = rng.choice(WORDS)
    return "\n".join(separator.join(cells) for cells in lines).encode()


def replaced(rng: Random, content: Any) -> bytes:
    """Return a JSON file with a value replaced by any other; sometimes it is damaged instead."""
    text = json.dumps(content)
    if rng.random() < 0.3:
        return damaged(rng, [text.encode()])
    whole = place = json.loads(text)
    while True:
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if not isinstance(place[key], dict | list) or not place[key] or rng.random() < 0.3:
            break
        place = place[key]
    place[key] = rng.choice(VALUES)
    if isinstance(place, dict) and rng.random() < 0.1:
        place[rng.choice(WORDS)] = place.pop(key)
    return json.dumps(whole).encode()


# ---- the loaders


def images() -> list[bytes]:
    """Small images of several types, headers and byte orders."""
    flat, thick = made_up_scan(1, (*SHAPE, 1)), made_up_scan(2, (*SHAPE, 5))
    flat[3:12, 2:10] = np.arange(9 * 8).reshape(9, 8, 1)
    thick[3:12, 2:10] = np.arange(9 * 8 * 5).reshape(9, 8, 5)
    affine = np.diag([12.0, 12.0, 12.0, 1.0])
    scaled = nib.Nifti1Image(flat.astype(np.int16), affine)
    scaled.header.set_slope_inter(0.5, 3)
    noted = nib.Nifti1Image(thick, affine)
    noted.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 24))
    swapped = nib.Nifti1Image(thick, affine, nib.Nifti1Header(endianness=">"))
    every = [scaled, noted, swapped, nib.Nifti2Image(flat, affine)]
    return [image.to_bytes() for image in every]


def packed(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def is_sound(cohort: Cohort) -> bool:
    return bool(
        len(cohort) and np.isfinite(cohort.images).all() and len(cohort.keys) == len(cohort)
    )


def load_image(file: Path) -> bool:
    slices, _ = read_scan(Scan("sub-1", "", file, None), PreprocessConfig(16))
    return all(one.image.min() >= 0 and one.image.max() <= 1 for one in slices)


def load_masked(file: Path) -> bool:
    scan = Scan("sub-1", "", file.with_name("whole.nii"), file)
    slices, _ = read_scan(scan, PreprocessConfig(16))
    return slices[0].mask.any()


def load_returned(file: Path) -> bool:
    return bool(np.isfinite(read_slice(file, SHAPE)).all())


def load_folder(file: Path) -> bool:
    dataset = BIDSDataset(file.parents[0] if file.parent.name == "study" else file.parents[1], 16)
    assert len(dataset.fingerprint) == 64 and dataset.info.label.encode()
    return is_sound(dataset.load())


def load_table(file: Path) -> bool:
    return is_sound(TableDataset(file).load())


def load_npz(file: Path) -> bool:
    return is_sound(ArrayDataset(file).load())


def load_settings(file: Path) -> bool:
    config = resolve(**read_study(file))
    return bool(build_dataset(config).info.name and config.model_dump_json().encode())


def load_weights(file: Path) -> bool:
    arrays, config = load_model(file.parent)
    return all(np.asarray(array).size >= 0 for array in arrays.values()) and {**config} == config


def load_card(file: Path) -> bool:
    return bool(read_card(file.parent).method)


TABLE = """participant_id\tsession_id\tage\tsex\tsite
sub-1\tn/a\t34.5\tF\tnorth
sub-2\tn/a\tn/a\tMale\tnorth
sub-3\tses-a\t89+\tf\tsouth
sub-3\tses-b\t90\tf\tsouth
"""
FEATURES = """participant_id,session_id,site,age,sex,volume,thickness,scanner
1,a,north,20,F,1.5,2e3,x
2,a,north,30,M,1.25,-3,y
3,a,south,40,F,1,0,x
3,b,south,41,F,2,1,"y, z"
"""
SESSIONS = "session_id\tage\tsite\nses-a\t50\teast\nses-b\t51\twest\n"
LEVELS = {"sex": {"Levels": {"1": "male", "2": {"Description": "female"}}}, "age": {"Units": "y"}}
DESCRIPTION = {"Name": "Study", "License": "CC0", "DatasetDOI": "10.1/x", "BIDSVersion": "1.10.0",
               "HarmbenchPreprocessed": {"size": [14, 12], "spacing_mm": 12.0}}  # fmt: skip
STUDY = """data = "phantom-dev"
preset = "smoke"
metrics = ["truth_mae"]
seeds = 2
threads = 1
reference_site = "a"
weights = ["none"]
probe = { images = 100 }
[data_options]
size = 32
[[methods]]
name = "combat"
label = "no eb"
params = { eb = false, covariates = ["age"] }
"""
RUN = {"identity": {"fingerprint": "x"}, "run": {
    "data": {"name": "phantom-dev", "params": {"size": 32}}, "preset": "smoke", "threads": 1,
    "methods": [{"name": "combat", "params": {"eb": False}, "label": "no eb"}], "seeds": 2,
    "controls": ["identity"], "protocol": "five", "metrics": ["truth_mae"], "data_seed": 0,
    "reference_site": None, "device": "cpu", "probe": {"images": 100}, "inception": "never",
    "weights": {"no eb": "none"}}}  # fmt: skip


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    front = np.pad(np.ones((4, 5, 4)), ((0, 0), (2, 2), (2, 2)))
    return {
        "images": (rng.uniform(0.2, 0.9, front.shape) * front).astype(np.float32),
        "participant_id": np.array(["p1", "p2", "p3", "p3"]),
        "site": np.array(["a", "a", "b", "b"]),
        "age": np.array([20.5, np.nan, 40, 41]),
        "sex": np.array(["F", "M", "", "f"]),
        "session_id": np.array(["", "", "x", "y"]),
        "slice": np.arange(4),
        "mask": front > 0,
        "preprocessed": np.array(True),
    }


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(f"{name.partition(chr(0))[0]}.npy", data)
    return stream.getvalue()


def archive(rng: Random) -> bytes:
    """Return an archive with one array damaged, exchanged or added, or damaged as a whole."""
    members = {name: npy(array) for name, array in arrays().items()}
    name, kind = rng.choice(sorted(members)), rng.choice(["array", "other", "added", "whole"])
    if kind == "array":
        members[name] = damaged(rng, [members[name]])
    elif kind == "other":
        members[name] = npy(rng.choice(OTHERS))
    elif kind == "added":
        members[rng.choice(WORDS)[:99]] = npy(rng.choice(OTHERS))
    whole = zipped(members, rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    return damaged(rng, [whole]) if kind == "whole" else whole


OTHERS = [
    np.array(5), np.zeros(4), np.ones((4, 9, 8)), np.full(4, np.nan), np.full(4, np.inf),
    np.arange(4), np.array(["a"] * 4), np.array(["", "n/a", "1", "x" * 99]), np.array([b"a"] * 4),
    np.zeros((4, 0, 8)), np.zeros(4, complex), np.full((4, 9, 8), 1e300), np.array([]),
    np.zeros((4, 9, 8), bool), np.zeros(4, [("f", "f4")]), np.zeros(4, "M8[s]"), np.zeros((4, 1)),
    np.array([-1, 0, 1, 2**63 - 1]), np.array([0, 1, 0, 1], bool), np.full(4, 1e308),
    np.arange(288.0).reshape(4, 9, 8) - 90,
]  # fmt: skip


class Loader(NamedTuple):
    """What is written where, damaged how, and read by what; its share of the many inputs."""

    file: str
    whole: bytes
    damage: Callable[[Random], bytes]
    load: Callable[[Path], bool]
    share: float


def loaders() -> dict[str, Loader]:
    """Return all loaders by name; their shares are 1 together."""
    raw = images()
    small = [packed(one) for one in raw]
    npz = zipped({name: npy(array) for name, array in arrays().items()})
    tensors = save({"a": np.arange(6.0).reshape(2, 3), "b": np.ones(3, bool)})

    def image(rng: Random) -> bytes:
        return damaged(rng, raw, header=True)

    def compressed(rng: Random) -> bytes:
        return packed(image(rng)) if rng.random() < 0.7 else damaged(rng, small)

    def table(file: str, text: str, separator: str, load: Callable[[Path], bool], share: float):
        damage = partial(edited, text=text, separator=separator)
        return Loader(file, text.encode(), damage, load, share)

    def described(file: str, content: Any, load: Callable[[Path], bool], share: float):
        damage = partial(replaced, content=content)
        return Loader(file, json.dumps(content).encode(), damage, load, share)

    sessions = "study/sub-3/sub-3_sessions.tsv"
    return {
        "nifti": Loader("image.nii", raw[0], image, load_image, 0.2),
        "nifti.gz": Loader("image.nii.gz", small[0], compressed, load_image, 0.15),
        "mask": Loader("mask.nii.gz", small[0], compressed, load_masked, 0.05),
        "returned": Loader("image.nii", raw[0], image, load_returned, 0.1),
        "participants": table("study/participants.tsv", TABLE, "\t", load_folder, 0.1),
        "sessions": table(sessions, SESSIONS, "\t", load_folder, 0.03),
        "levels": described("study/participants.json", LEVELS, load_folder, 0.02),
        "description": described("study/dataset_description.json", DESCRIPTION, load_folder, 0.02),
        "features": table("features.csv", FEATURES, ",", load_table, 0.07),
        "npz": Loader("data.npz", npz, archive, load_npz, 0.08),
        "study": table("study.toml", STUDY, " ", load_settings, 0.06),
        "run": described("config.json", RUN, load_settings, 0.05),
        "weights": Loader("weights.safetensors", tensors, partial(damaged, files=[tensors]),
                          load_weights, 0.03),
        "model": described("model.json", {"a": {"b": [1, 2]}, "c": ""}, load_weights, 0.02),
        "card": described("card.json", CARD, load_card, 0.02),
    }  # fmt: skip


LOADERS = loaders()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every loader finds the rest of what it reads."""
    root = tmp_path_factory.mktemp("fuzz")
    for subject, session in (("sub-1", ""), ("sub-2", ""), ("sub-3", "ses-a"), ("sub-3", "ses-b")):
        data = np.pad(np.arange(1.0, 73).reshape(9, 8, 1), ((3, 2), (2, 2), (0, 0)))
        affine = np.diag([12.0, 12.0, 12.0, 1.0])
        save_bids_scan(root / "study", subject, session, data, affine, ".nii")
    (root / "study/participants.tsv").write_text(TABLE)
    (root / "whole.nii").write_bytes(images()[0])
    save_model(root, {"a": np.ones(3)}, {"b": 1})
    return root


class Late(BaseException):
    """No error that a loader could take for one of the file's."""


@contextmanager
def in_time() -> Iterator[None]:
    """Raise where the block hangs; code of extensions is stopped as it returns."""

    def late(*_: object) -> None:
        raise Late(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Trial:
    """Tries inputs on a loader, and counts those that were read and those that were refused."""

    def __init__(self, name: str, room: Path) -> None:
        self.loader = LOADERS[name]
        self.file = room / self.loader.file
        self.kept = room / f"failed-{self.file.name}"
        self.counts = {"read": 0, "refused": 0}

    def try_one(self, content: bytes) -> None:
        """Write an input and load it; keep it where anything but our own error comes of it."""
        self.file.write_bytes(content)
        try:
            with in_time():
                assert self.loader.load(self.file), "what was read does not hold"
            self.counts["read"] += 1
        except HarmbenchError:
            self.counts["refused"] += 1
        except BaseException as error:
            self.kept.write_bytes(content)
            error.add_note(f"the input is kept as {self.kept}")
            raise


@pytest.fixture
def trial(request: pytest.FixtureRequest, room: Path) -> Iterator[Trial]:
    """The loader that a test names, with what it imports imported, and its memory watched."""
    one = Trial(request.param, room)
    before = one.file.read_bytes() if one.file.exists() else None
    one.file.write_bytes(one.loader.whole)
    assert one.loader.load(one.file)
    start = peak()
    yield one
    if before is not None:
        one.file.write_bytes(before)
    else:
        one.file.unlink()
    assert peak() - start < MEMORY
    # Otherwise the edits are too coarse, or too fine, to say anything.
    assert min(one.counts.values()) > sum(one.counts.values()) // 100, one.counts


each_loader = pytest.mark.parametrize("trial", LOADERS, indirect=True)


@each_loader
def test_damaged_files_are_read_or_refused(trial: Trial) -> None:
    @settings(max_examples=FEW, deadline=None, database=None, derandomize=True, print_blob=False,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(rng=st.randoms(note_method_calls=False))
    def once(rng: Random) -> None:
        trial.try_one(trial.loader.damage(rng))

    once()


@pytest.mark.faults
@each_loader
def test_many_damaged_files_are_read_or_refused(trial: Trial) -> None:
    name = next(name for name, loader in LOADERS.items() if loader is trial.loader)
    count = round(MANY * trial.loader.share)
    start = time.monotonic()
    for number in range(count):
        try:
            trial.try_one(trial.loader.damage(Random(f"{name} {number}")))
        except BaseException as error:
            error.add_note(f"input {number} of {name}")
            raise
    print(f"{name}: {count} inputs, {trial.counts}, {time.monotonic() - start:.0f} s")
