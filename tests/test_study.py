import json
from pathlib import Path

import pytest

import harmbench.data.toy
from harmbench.config import MethodSpec, resolve
from harmbench.engine.run import outline, run
from harmbench.errors import HarmbenchError
from harmbench.study import read_study

TOY = f"{Path(harmbench.data.toy.__file__)}:ToyDataset"


def write(tmp_path: Path, text: str, name: str = "study.toml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def test_a_study_with_variants(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        f"""
        data = {TOY!r}
        metrics = ["truth_mae"]
        threads = 1
        [data_options]
        n = 40
        sites = 2
        [[methods]]
        name = "combat"
        [[methods]]
        name = "combat"
        label = "no eb"
        params = {{ eb = false }}
        """,
    )
    settings = read_study(path)
    assert settings["methods"][1] == MethodSpec(name="combat", label="no eb", params={"eb": False})
    scores = run(resolve(**settings), tmp_path / "out").scores
    overall = scores[scores["group"] == "all"].set_index("label")["value"]
    assert overall["combat"] != overall["no eb"]
    again = read_study(tmp_path / "out/config.json")
    run(resolve(**again), tmp_path / "again")
    first, second = ((tmp_path / n / "scores.csv").read_bytes() for n in ("out", "again"))
    assert first == second


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("metods = ['combat']", "unknown key 'metods'; did you mean 'methods'"),
        ("seeds = 'many'", "'seeds': Input should be a valid integer"),
        ("methods = [", "is not valid toml"),
        ("[[methods]]\nname='combat'\nparam={}", "unknown key 'param'; did you mean 'params'"),
    ],
)
def test_a_bad_study_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(HarmbenchError, match=sentence):
        read_study(write(tmp_path, text))


def test_a_parameter_that_a_method_does_not_have_is_refused() -> None:
    with pytest.raises(HarmbenchError, match="'covariate'; did you mean 'covariates'"):
        resolve(methods=[MethodSpec(name="combat", params={"covariate": []})])


def test_another_json_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(HarmbenchError, match=r"is not a run's config\.json"):
        read_study(write(tmp_path, json.dumps({"a": 1}), "config.json"))


def test_a_dry_run_tells_what_is_done_and_writes_nothing(tmp_path: Path) -> None:
    config = resolve(data=TOY, methods=["blur"], metrics=["truth_mae"], threads=1)
    out = tmp_path / "out"
    plan = outline(config, out).cells
    assert not out.exists()
    assert set(plan["scores"]) == {"0 of 1"}
    run(config, out)
    before = sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*"))
    plan = outline(config.model_copy(update={"metrics": ("truth_mae", "truth_psnr")}), out).cells
    assert set(plan["scores"]) == {"1 of 2"}
    assert set(plan["fitted"]) == {"yes"}
    assert before == sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*"))
