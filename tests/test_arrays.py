from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harmbench.data.arrays import ArrayDataset, save_npz
from harmbench.data.toy import ToyDataset
from harmbench.errors import HarmbenchError


def arrays(n: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.uniform(0.2, 0.9, (n, 8, 9)) * np.pad(np.ones((n, 4, 5)), ((0, 0), (2, 2), (2, 2)))
    return {
        "images": images,
        "participant_id": np.array([f"p{i:03d}" for i in range(n)]),
        "site": np.array(["a", "b"] * (n // 2)),
        "age": np.r_[np.nan, np.linspace(20.123456789, 80, n - 1)],
        "sex": np.array(["F", "M", "", "f", "male", "M"]),
    }


def save(tmp_path: Path, **content) -> ArrayDataset:
    np.savez(tmp_path / "data.npz", **content)
    return ArrayDataset(tmp_path / "data.npz")


def test_images_in_range_are_taken_as_they_are(tmp_path):
    content = arrays()
    cohort = save(tmp_path, **content).load()
    assert np.array_equal(cohort.images, content["images"].astype(np.float32))
    assert np.array_equal(cohort.mask, content["images"] > 0)
    assert np.array_equal(cohort.column("age"), content["age"], equal_nan=True)
    assert list(cohort.column("sex")[[0, 1, 3, 4]]) == ["F", "M", "F", "M"]
    assert pd.isna(cohort.column("sex")[2])
    assert [key[:2] for key in cohort.keys[:2]] == [("p000", "a"), ("p001", "b")]


def test_other_images_are_scaled_one_by_one(tmp_path):
    content = arrays()
    gains = np.array([3, 40, 500, 7, 1, 900])[:, None, None]
    own = save(tmp_path, **content | {"images": content["images"] * gains}).load()
    same = save(tmp_path, **content | {"images": content["images"] * 1000}).load()
    np.testing.assert_allclose(own.images, same.images, atol=1e-6)
    assert own.images.max(axis=(1, 2)) == pytest.approx(np.ones(6))


def test_optional_arrays_and_columns_are_kept(tmp_path):
    content = arrays() | {
        "session_id": np.array(["v1", "v2"] * 3),
        "slice": np.arange(6),
        "scanner": np.array(list("xyzxyz")),
        "volume": np.linspace(1000, 1600, 6),
        "mask": np.ones((6, 8, 9), bool),
    }
    cohort = save(tmp_path, **content).load()
    assert cohort.keys[3] == ("p003", "b", "v2", 3)
    assert cohort.mask.all()
    assert list(cohort.column("scanner")) == list("xyzxyz")
    assert np.array_equal(cohort.column("volume"), content["volume"])


def test_what_is_saved_is_read_back(tmp_path):
    cohort = save(tmp_path, **arrays() | {"scanner": np.array(list("xyzxyz"))}).load()
    harmonized = cohort.with_images(cohort.images * 1.5 - 0.1)  # some below 0, some above 1
    save_npz(harmonized, tmp_path / "again.npz")
    back = ArrayDataset(tmp_path / "again.npz").load()
    assert np.array_equal(back.images, harmonized.images)
    assert np.array_equal(back.mask, harmonized.mask)
    pd.testing.assert_frame_equal(
        back.participants[list(cohort.participants)], cohort.participants, check_dtype=False
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.npz", "data.npz"]


def test_saving_twice_gives_the_same_fingerprint(tmp_path):
    cohort = save(tmp_path, **arrays()).load()
    names = []
    for name in ("one.npz", "two.npz"):
        save_npz(cohort, tmp_path / name)
        names.append(ArrayDataset(tmp_path / name).fingerprint)
    assert names[0] == names[1] != ArrayDataset(tmp_path / "data.npz").fingerprint


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    trap = np.array([Trap()] * 6, dtype=object)
    with pytest.raises(HarmbenchError, match=r"data.npz: array 'site' .* objects are refused"):
        save(tmp_path, **arrays() | {"site": trap}).load()
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(HarmbenchError, match="not a NumPy archive"):
        ArrayDataset(tmp_path / "raw.npz").load()
    assert not (tmp_path / "sprung").exists()


def with_value(value: float) -> np.ndarray:
    images = arrays()["images"]
    images[4, 3, 3] = value
    return images


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"images": with_value(np.nan)}, "image 4: 1 of its values are NaN"),
        ({"images": np.ones((6, 8, 9))}, "image 0: it is constant"),
        ({"images": with_value(2.0) - 0.5}, "image 0: .* negative"),
        ({"images": np.ones((6, 8))}, r"shape \(n, h, w\), not float64 \(6, 8\)"),
        ({"age": np.ones(5)}, r"age has shape \(5,\), but there are 6 images"),
        ({"age": np.full(6, 300.0)}, "'300.0', which are not ages"),
        ({"sex": np.array([0, 1, 0, 1, 0, 1])}, "numbers 0, 1, .*--sex-codes"),
        ({"site": np.array(["a"] * 6)}, r"one site \(a\)"),
        ({"site": np.array(["a", "b", "", "a", "b", "a"])}, "row 2, p002: the site is missing"),
        ({"participant_id": np.array(["p1"] * 6)}, "row 2 .* same scan"),
        ({"images": with_value(2.0), "mask": np.zeros((6, 8, 9), bool)}, "image 0: .* no positive"),
        ({"mask": np.ones((6, 7, 9), bool)}, r"mask has shape \(6, 7, 9\)"),
    ],
)
def test_every_fault_is_named(tmp_path, change, sentence):
    with pytest.raises(HarmbenchError, match=sentence):
        save(tmp_path, **arrays() | change).load()


def test_missing_arrays_and_files_are_named(tmp_path):
    content = arrays()
    del content["site"], content["age"]
    with pytest.raises(HarmbenchError, match=r"lacks site, age; it holds images"):
        save(tmp_path, **content).load()
    with pytest.raises(HarmbenchError, match="there is no file"):
        ArrayDataset(tmp_path / "absent.npz").load()
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "data.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HarmbenchError, match="not a NumPy archive"):
        ArrayDataset(tmp_path / "data.npz").load()


def test_all_problems_are_said_at_once_or_left_out(tmp_path):
    cohort = ToyDataset(30).load()
    file = tmp_path / "bad.npz"
    save_npz(cohort, file)
    with np.load(file) as held:
        arrays = dict(held)
    arrays["age"] = arrays["age"].astype(str)
    arrays["age"][3] = "old"
    arrays["sex"][4] = "x"
    arrays["images"] = arrays["images"].copy()
    arrays["images"][5] = np.inf
    np.savez(file, **arrays)
    with pytest.raises(HarmbenchError, match="3 problems") as refused:
        ArrayDataset(file).load()
    for words in ("age 'old'", "sex 'x'", "image 5: "):
        assert words in str(refused.value)
    dataset = ArrayDataset(file, skip_bad=True)
    kept = dataset.load()
    assert len(kept) == 27
    np.testing.assert_array_equal(kept.images, cohort.images[[*range(3), *range(6, 30)]])
    aside = [note.text for note in dataset.notes if note.kind == "set_aside"]
    assert len([text for text in aside if "bad.npz" in text or "row" in text]) == 3
    assert dataset.fingerprint != ArrayDataset(file).fingerprint


def test_what_is_left_out_must_leave_two_sites(tmp_path):
    cohort = ToyDataset(12, sites=2).load()
    images = cohort.images.copy()
    images[cohort.column("site") == "site-a"] = np.nan
    file = tmp_path / "one.npz"
    save_npz(cohort.with_images(images), file)
    with pytest.raises(HarmbenchError, match=r"one site \(site-b\)"):
        ArrayDataset(file, skip_bad=True).load()
