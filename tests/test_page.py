"""The parts of the page: shading, weights, images to step through, cards, footnotes."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support import make_run_folder

from harmbench.files.atomic import write_json
from harmbench.stats.scores import Sample, harmonic_mean, rank_intervals
from reports import cards, curves, sheet, stepper
from reports.claim_tables import LONG, Block, Line, Section, _long_reasons
from reports.figures import Saved
from reports.html import page_content, render_html
from reports.inline import inline_png, place_figures
from reports.results import Results, Row, Score, read_results
from reports.scores import BIOLOGY, SITE, RowScores, Scores
from reports.shading import merit, shades
from reports.tables import budgets
from reports.weighting import embedded, mean_ranks, weighted_mean, weighting

EVIL = "</script><script>alert(1)</script>&\"'"


def _score(value: float, half: float = 0.0, target: float = np.nan) -> Score:
    return Score(value, value - half, value + half, target, 9, "ok", "")


def _row(label: str, control: bool = False) -> Row:
    return Row(label, 0, label, control, False)


# -- shading --------------------------------------------------------------------------------------

ROWS = [_row("a"), _row("b"), _row("c"), _row("broken", control=True)]


def test_an_extreme_control_does_not_make_all_methods_look_alike() -> None:
    scores = [_score(0.1, 0.01), _score(0.2, 0.01), _score(0.3, 0.01), _score(900.0, 1.0)]
    found = shades(scores, ROWS, {"direction": "lower", "goal": None})
    assert found == pytest.approx([1, 2 / 3, 1 / 3, 0])


def test_noise_is_not_shaded() -> None:
    scores = [_score(0.10, 0.1), _score(0.12, 0.1), _score(0.14, 0.1), _score(0.16, 0.1)]
    assert np.isnan(shades(scores, ROWS, {"direction": "lower", "goal": None})).all()


@pytest.mark.parametrize(
    ("direction", "values"), [("lower", [1, 2, 3, 4]), ("higher", [4, 3, 2, 1])]
)
def test_shades_heed_the_direction(direction: str, values: list[float]) -> None:
    scores = [_score(v, 0.1) for v in values]
    metric = {"direction": direction, "goal": None}
    assert shades(scores, ROWS, metric) == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert np.argsort([merit(s, metric) for s in scores]).tolist() == [0, 1, 2, 3]


def test_a_target_is_best_met_from_either_side() -> None:
    metric = {"direction": "target", "goal": 0.0}
    scores = [_score(0.5, 0.1, 0.4), _score(0.1, 0.05, 0.4), _score(0.9, 0.05, 0.4), _score(0.4)]
    found = shades(scores, ROWS, metric)
    # 0.5 ± 0.1 holds its target of 0.4; the last has none of its own, but the metric's goal of 0.
    assert found == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])
    assert merit(scores[1], metric) == pytest.approx(0.3)


def test_missing_values_have_no_shade() -> None:
    missing = Score(np.nan, np.nan, np.nan, np.nan, 0, "skipped", "why")
    metric = {"direction": "lower", "goal": None}
    found = shades([_score(1), missing, _score(3), missing], ROWS, metric)
    assert found[0] == 1 and found[2] == 0.5 and np.isnan([found[1], found[3]]).all()
    assert np.isnan(merit(missing, metric))


# -- weights --------------------------------------------------------------------------------------


def _scores(axes: dict[str, list[tuple[float, float] | None]]) -> Scores:
    rows = []
    for label, seeds in axes.items():
        for seed, pair in enumerate(seeds):
            row = Row(label, seed, label, label == "identity", False)
            if pair is None:
                rows.append(RowScores(row, {}, {}, None, ["iLISI"]))
                continue
            none = np.full(3, np.nan)
            both = {SITE: Sample(pair[0], none), BIOLOGY: Sample(pair[1], none)}
            mean = harmonic_mean(both[SITE], both[BIOLOGY])
            rows.append(RowScores(row, {}, both, mean, []))
    return Scores([], rows, (1.0, 1.0))


def test_the_mean_is_that_of_the_tables() -> None:
    rng = np.random.default_rng(0)
    for site, biology, weight in rng.uniform(0.01, 0.99, (50, 3)):
        ours = float(weighted_mean(site, biology, weight))
        none = np.empty(0)
        theirs = harmonic_mean(Sample(site, none), Sample(biology, none), (weight, 1 - weight))
        assert ours == pytest.approx(theirs.value, rel=1e-12)


@pytest.mark.parametrize(
    ("pair", "weight", "mean"),
    [((0, 1), 0.5, 0), ((0, 0), 0.5, 0), ((0, 0.9), 0, 0.9), ((0.7, 0), 1, 0.7), ((0, 0.9), 1, 0)],
)
def test_scores_of_zero(pair: tuple[float, float], weight: float, mean: float) -> None:
    assert float(weighted_mean(*pair, weight)) == mean


def test_equal_values_share_their_rank() -> None:
    values = [0.5, 0.9, 0.5, 0.1]
    assert mean_ranks(values) == [2.5, 1, 2.5, 4]
    theirs = rank_intervals([Sample(v, np.full(2, v)) for v in values])
    assert mean_ranks(values) == [rank.value for rank in theirs]


def test_methods_at_all_weights() -> None:
    found = weighting(
        _scores(
            {
                "keeper": [(0.2, 1.0)],
                "remover": [(1.0, 0.2), (1.0, 0.2)],
                "gone": [None],
                "identity": [(0.0, 1.0)],
            }
        )
    )
    assert found is not None
    assert [(m.title, m.rank) for m in found.methods] == [("keeper", 1.5), ("remover", 1.5)]
    assert [m.value for m in found.methods] == pytest.approx([1 / 3, 1 / 3])
    assert found.start == 0.5 and found.lacking == ["gone"]
    assert found.first == [
        "keeper ranks first where site removal weighs 0.00 to 0.50",
        "remover ranks first where site removal weighs 0.50 to 1.00",
    ]
    assert weighting(_scores({"gone": [None]})) is None


def test_embedded_json_cannot_close_its_script() -> None:
    text = embedded({"title": EVIL, "x": [1.5, None]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"title": EVIL, "x": [1.5, None]}


# -- images ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run_folder(tmp_path_factory.mktemp("page"), n_per_site=18, shape=(7, 9))


@pytest.fixture(scope="module")
def results(run: Path) -> Results:
    return read_results(run)


def _strip(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA"))


def test_strips_show_the_images_themselves(results: Results) -> None:
    found = stepper.stepper(results)
    assert found is not None
    assert found.columns == ["before", "combat", "ddae", "oracle*†", "truth"]
    assert found.rows == ["Image", "Change", "Error"]
    assert len(found.subjects) == 9
    chosen = stepper.choose(results, 9)
    # A picture of 7 x 9 is 7 wide and 9 high, as radiologists hold it, with a gap after it.
    gray = _strip(found.subjects[4].strips[0])
    assert gray.shape == (9, 5 * (7 + stepper.GAP), 4)
    before = np.asarray(results.folder.cohort().images[chosen[4]], dtype=float)
    expected = np.clip(before / found.high, 0, 1).T[::-1]
    assert np.abs(gray[:, :7, 0] / 255 - expected).max() < 1 / stepper.GRAYS
    assert (gray[:, 7:9, 3] == 0).all()
    after = results.images(results.rows[0])[chosen[4]].astype(float)
    change = _strip(found.subjects[4].strips[1])[:, 9:16]
    less, more = (after - before).T[::-1] < -0.1, (after - before).T[::-1] > 0.1
    assert less.any() and (change[less][:, 2] > change[less][:, 0]).all()
    assert (change[more][:, 0] > change[more][:, 2]).all()
    # Nothing is changed before, and the truth has no error.
    assert (_strip(found.subjects[4].strips[1])[:, :7, 3] == 0).all()
    assert (_strip(found.subjects[4].strips[2])[:, -9:, 3] == 0).all()


def test_subjects_are_of_all_sites_and_ages(results: Results) -> None:
    chosen = stepper.choose(results, 100)
    table = results.participants.iloc[chosen]
    assert table["site"].value_counts().tolist() == [3, 3, 3]
    assert table["site"].iloc[0] == results.reference_site
    assert set(table["part"]) == {"test"}
    for _, mine in table.groupby("site"):
        assert mine["age"].is_monotonic_increasing and mine["age"].nunique() == 3
    assert len(stepper.choose(results, 1)) == 3


def test_large_images_are_averaged_over_blocks(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, methods=("combat",), controls=(), sites=2, shape=(150, 7))
    found = stepper.stepper(read_results(folder))
    assert found is not None
    assert _strip(found.subjects[0].strips[0]).shape == (3, 3 * (75 + stepper.GAP), 4)


def test_there_is_no_stepper_where_images_may_not_be_shown(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, images=False)
    results = read_results(folder)
    assert stepper.stepper(results) is None
    shown = read_results(make_run_folder(tmp_path / "shown"))
    assert stepper.stepper(shown) is not None
    object.__setattr__(shown, "images_allowed", False)
    assert stepper.stepper(shown) is None
    assert 'id="stepper"' not in render_html(page_content(shown) | {"left_out": []}, [])


# -- cards and curves -----------------------------------------------------------------------------


def _save_fit(run: Path, label: str, arrays: dict[str, np.ndarray], key: str = "0") -> None:
    from safetensors.numpy import save_file

    folder = run / "cells" / f"{label}-0" / "seed-0" / f"fit-{key}"
    folder.mkdir(parents=True)
    save_file({name: np.asarray(a) for name, a in arrays.items()}, folder / "weights.safetensors")


def test_training_curves_are_read_from_the_fits(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, images=False)
    images = np.array([0, 50, 100])
    loss = np.array([100.0, 10.0, 1.0])
    _save_fit(folder, "ddae", {"history.images": images, "history.loss": loss, "net.w": loss})
    _save_fit(folder, "combat", {"estimates": loss})
    results = read_results(folder)
    combat, ddae = results.rows[:2]
    found = curves.training_curve(results, ddae)
    assert found is not None and found.images == 100 and found.scale == "logarithmic"
    assert [line.name for line in found.lines] == ["loss"]
    assert found.lines[0].points == "0.0,0.0 120.0,28.0 240.0,56.0"
    assert found.lines[0].ends == "100 → 1"
    assert curves.training_curve(results, combat) is None
    # Of two fits nobody knows which one the scores belong to.
    _save_fit(folder, "ddae", {"history.images": images, "history.loss": loss}, key="1")
    assert curves.training_curve(results, ddae) is None


def test_losses_below_zero_are_drawn_on_a_linear_scale(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, methods=("gan",), images=False)
    arrays = {
        "history.images": np.array([10, 20]),
        "history.critic.loss": np.array([1.0, -1.0]),
        "history.latent.loss": np.array([0.0, np.nan]),
        "history.critic.r1": np.array([9.0, 9.0]),
    }
    _save_fit(folder, "gan", arrays)
    results = read_results(folder)
    found = curves.training_curve(results, results.rows[0])
    assert found is not None and found.scale == "linear"
    assert [line.name for line in found.lines] == ["critic.loss", "latent.loss"]
    assert found.lines[1].points == "120.0,28.0"


def test_tables_say_how_long_methods_were_trained(tmp_path: Path) -> None:
    run = make_run_folder(tmp_path / "run")
    methods = json.loads((run / "methods.json").read_text())
    methods["ddae"]["weights"] = [{"origin": "trained", "images": 1500, "seed": 0}]
    methods["combat"]["weights"] = [{"origin": "trained", "images": 0, "seed": 0}]
    write_json(run / "methods.json", methods)
    assert budgets(read_results(run)) == "Images seen in training: ddae 1,500 (in this run)."
    methods["ddae"]["weights"] = [{"origin": "shipped", "images": 40_000, "seed": 0}]
    write_json(run / "methods.json", methods)
    assert budgets(read_results(run)) == "Images seen in training: ddae 40,000 (shipped weights)."


def test_cards_say_where_weights_are_from_and_what_they_cost(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, methods=("ddae",), images=False)
    methods = json.loads((folder / "methods.json").read_text())
    origin = {
        "seed": 0, "origin": "shipped", "name": "ddae", "images": 40000, "seconds": 825.0,
        "device": "cpu", "id": "2ea9ef2dffb2", "params": {"lr": 0.5, "name": EVIL},
    }  # fmt: skip
    methods["ddae"]["weights"] = [origin]
    write_json(folder / "methods.json", methods)
    (card, *controls) = cards.method_cards(read_results(folder))
    facts = dict(card.facts)
    assert facts["Weights"] == (
        "shipped: ddae, 40,000 images seen, trained in 14 min on cpu, id 2ea9ef2d"
    )
    # 1.5 seconds for 12 test images.
    assert facts["Fitting"] == "1.5 s" and facts["Harmonizing"] == "1.5 s, 125 ms an image"
    assert ("lr", "0.5") in card.trained
    assert [c.control for c in controls] == [True, True]
    assert dict(controls[1].facts)["Kind"] == "control, given the simulator's answer"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.02, "under 0.1 s"), (89.9, "89.9 s"), (825, "14 min"), (7200, "2.0 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert cards.duration(seconds) == text


# -- figures, footnotes, data -----------------------------------------------------------------


def test_figures_stand_in_their_sections() -> None:
    names = ["age", "age-2", "embedding-site", "leakage-pull", "pareto", "scores-leakage"]
    names += ["scores-truth", "slices", "new-thing"]
    saved = [Saved(name, name, "", Path()) for name in names]
    placed = place_figures(saved)  # type: ignore[arg-type]
    assert {place: [f.name for f in found] for place, found in placed.items() if found} == {
        "results": ["scores-truth"],
        "tradeoff": ["pareto"],
        "images": ["slices"],
        "embeddings": ["embedding-site"],
        "age": ["age", "age-2"],
        "leakage": ["leakage-pull", "scores-leakage"],
        "more": ["new-thing"],
    }


def test_figures_keep_their_size_and_look(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (60, 90, 3), dtype=np.uint8)
    file = tmp_path / "x.png"
    Image.fromarray(pixels).save(file, dpi=(300, 300))
    found = inline_png(Saved("x", "X", "", file))
    assert found.width == round(90 * 96 / 300)
    shown = _strip(found.base64)[..., :3].astype(int)
    assert shown.shape == pixels.shape and np.abs(shown - pixels).mean() < 20


def test_long_reasons_that_come_again_are_said_once() -> None:
    long = "No weights: " + "x" * LONG
    reasons = [long, long, "short", "short", "y" * (LONG + 1)]
    lines = [
        Line("ddae", "t", "", "fid", "FID", "—", [], "not tested", "–", reason)
        for reason in reasons
    ]
    blocks = [Block("b", {"ddae": lines})]
    section = Section("", [], [], blocks, _long_reasons(blocks))
    assert section.footnotes == [long]
    assert [section.note(line) for line in lines] == [1, 1, 0, 0, 0]


def test_ages_and_confounding_are_said(results: Results) -> None:
    described = sheet.data_sheet(results)
    first = results.participants[results.participants["site"] == results.reference_site]["age"]
    ages = described.ages[0]
    assert ages is not None and ages.median == pytest.approx(first.median())
    low, high = described.age_ends
    assert low <= results.participants["age"].min() <= results.participants["age"].max() <= high
    assert low % 10 == 0 and high % 10 == 0
    names = [name for name, _, _ in described.confounding]
    assert len(names) == 3 and "age variance" in names[0] and "sex" in names[2]


def test_a_hostile_run_shows_as_text(tmp_path: Path) -> None:
    folder = make_run_folder(tmp_path, methods=("combat", "EVIL"))
    for name in ("methods.json", "cells.json", "scores.csv", "config.json"):
        path = folder / name
        text = json.dumps(EVIL)[1:-1] if path.suffix == ".json" else EVIL
        if path.suffix == ".csv":
            table = pd.read_csv(path, keep_default_na=False)
            for column in ("method", "label"):
                table[column] = table[column].replace("EVIL", EVIL)
            table.to_csv(path, index=False)
            continue
        held = json.loads(path.read_text())
        path.write_text(json.dumps(held).replace('"EVIL"', f'"{text}"'))
    path = folder / "data" / "participants.csv"
    table = pd.read_csv(path, keep_default_na=False)
    table["participant_id"] = EVIL + table["participant_id"]
    table.to_csv(path, index=False)
    results = read_results(folder)
    assert EVIL in [row.label for row in results.rows]
    page = render_html(page_content(results) | {"left_out": [EVIL]}, [])
    assert "alert(1)" in page and "<script>alert" not in page and EVIL not in page
    # Those of the page itself: its script and the data of its images.
    assert page.count("</script>") == page.count("<script") == 2
