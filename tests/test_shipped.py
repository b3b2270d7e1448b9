"""What may be said of weights, what their cards keep, and what the wheel takes along."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hatchling.builders.wheel import WheelBuilder

from harmbench.config import MethodSpec, build_method, resolve
from harmbench.engine.saved_weights import completed, recipe
from harmbench.errors import HarmbenchError
from harmbench.training.cards import CURVE_POINTS, differences, thinned


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere"], "give auto, none, or METHOD=FOLDER"),
        (["auto", "none"], "give one of them"),
        (["blurr=x"], "unknown method in --weights 'blurr'; did you mean 'blur'"),
        (["blur=/no/such/folder"], "there is no folder"),
    ],
)
def test_bad_wishes_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(HarmbenchError, match=sentence):
        resolve(methods=["blur"], weights=words)


def test_wishes_of_single_methods_stand_above_that_of_all(tmp_path: Path) -> None:
    odd = MethodSpec(name="blur", label="sigma=1", params={"sigma": 0.1})
    said = ["none", f"sigma=1={tmp_path}", "combat=auto"]
    chosen = resolve(methods=["blur", odd, "combat"], weights=said).weights
    assert chosen == {"blur": "none", "sigma=1": str(tmp_path.resolve()), "combat": "auto"}


def test_a_curve_is_thinned_and_keeps_its_ends() -> None:
    long = {"images": np.arange(1, 1000), "loss": np.full(999, np.nan)}
    short = thinned(long)
    assert len(short["images"]) == CURVE_POINTS
    assert (short["images"][0], short["images"][-1]) == (1, 999)
    assert set(short["loss"]) == {None}
    assert thinned({}) == {}
    assert thinned({"images": np.array([8, 16])}) == {"images": [8, 16]}


def test_the_wheel_holds_weights_even_where_an_ignore_line_names_them(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / ".gitignore").write_text("*.safetensors\n")
    made = [
        "ddae/weights/ddae-phantom/weights.safetensors",
        "ddae/weights/ddae-phantom/seed-1/weights.safetensors",
        "baselines/style_gan/weights/gan-phantom/weights.safetensors",
        "baselines/style_gan/weights/gan-phantom/model.json",
        "baselines/style_gan/weights/gan-phantom/card.json",
        "baselines/style_gan/weights/gan-phantom/README.md",
        "ddae/weights/ddae-phantom/checkpoints/checkpoint.safetensors",
        "reports/reference/scores.csv",
    ]
    for package in ("harmbench", "baselines", "ddae", "reports"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text('__version__ = "0"\n')
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    files = {f.distribution_path for f in WheelBuilder(str(tmp_path)).recurse_included_files()}
    assert files >= set(made[:-2])
    assert not files & set(made[-2:])


def test_an_option_that_a_method_gains_leaves_its_weights_valid_at_its_default() -> None:
    facts = {"data": {}, "fingerprint": "f", "data_seed": 0, "split": "s", "reference_site": "A"}
    sigma = build_method(MethodSpec(name="blur")).params()["sigma"]
    for asked_sigma, gaps in ((sigma, 0), (sigma + 1, 1)):
        method = build_method(MethodSpec(name="blur", params={"sigma": asked_sigma}))
        asked = recipe(method, 0, facts)
        held = asked.model_copy(update={"params": {}})
        assert len(differences(completed(held, method), asked)) == gaps
