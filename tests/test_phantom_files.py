"""`harmbench phantom` writes what the loader of BIDS folders reads back."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from harmbench.cli.app import app
from harmbench.data.bids import BIDSDataset
from harmbench.data.phantom import phantom_dev
from harmbench.errors import HarmbenchError


def test_written_and_read_back(tmp_path: Path) -> None:
    out = tmp_path / "phantom"
    knobs = "--n 9 --n-sites 2 --size 16 --travelling 2 --no-biology --dev".split()
    result = CliRunner().invoke(app, ["phantom", str(out), *knobs])
    assert result.exit_code == 0, result.output
    assert "11 slices of 2 sites" in result.output
    written = phantom_dev(n=9, n_sites=2, size=16, travelling=2, biology=False).load()
    read = BIDSDataset(str(out), size=16).load()
    images = {(k.participant_id, k.site): i for k, i in zip(read.keys, read.images, strict=True)}
    for key, image in zip(written.keys, written.images, strict=True):
        np.testing.assert_allclose(images[key.participant_id, key.site], image, atol=1e-6)
    ages = {k.participant_id: a for k, a in zip(read.keys, read.column("age"), strict=True)}
    assert ages[written.keys[3].participant_id] == written.column("age")[3]


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    result = CliRunner().invoke(app, ["phantom", str(tmp_path), "--n", "4", "--n-sites", "2"])
    assert isinstance(result.exception, HarmbenchError)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(HarmbenchError, match="not an empty folder"):
        raise result.exception
