"""When does which method win? One knob of the phantom at a time, all methods trained anew.

The strength of the site effect, the confounding of age with site, the jitter of the slice's height
and the nonlinear share of the effect each go through three levels around the standard phantom's.
Small images and short trainings (SIZE, PARAMS), so the panel shows how methods react to a knob,
not how good they get; the ceiling, which learns from pairs, is the yardstick. Everything is the
suite's own run: `harmbench report` makes the full report of each setting.

Writes FOLDER/<setting>/ (runs, resumable), FOLDER/sensitivity.csv, .md and .png.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

SIZE = {"n": 700, "n_sites": 5, "size": 48}
KNOBS: dict[str, tuple[float, ...]] = {
    "strength": (0.5, 1.0, 2.0),
    "confounding": (0.0, 0.25, 0.5),
    "jitter": (0.0, 2.0, 4.0),
    "nonlinear": (0.0, 1.0, 2.0),
}
NAMES = {
    "strength": "strength of the site effect",
    "confounding": "share of age's variance between sites",
    "jitter": "spread of the slice's height, mm",
    "nonlinear": "factor on blur, distortion, contrast",
}
STANDARD = {"strength": 1.0, "confounding": 0.25, "jitter": 2.0, "nonlinear": 1.0}
PARAMS: dict[str, dict[str, Any]] = {
    "combat": {},
    "combat-nocov": {},
    "ddae": {"images": 16_000, "channels": 24, "multipliers": (1, 2), "steps": 8},
    "ddae-blind": {"images": 16_000, "channels": 24, "multipliers": (1, 2), "steps": 8},
    "cvae": {"images": 24_000},
}
METRICS = ("truth_mae", "population_pull", "mmd")
CONTROLS = ("identity", "oracle", "ceiling")


def settings() -> list[dict[str, float]]:
    """Return the standard phantom's knobs and those that differ from it in one."""
    found = [STANDARD]
    for knob, levels in KNOBS.items():
        found += [{**STANDARD, knob: level} for level in levels if level != STANDARD[knob]]
    return found


def run_setting(knobs: dict[str, float], folder: Path, threads: int) -> pd.DataFrame:
    """Run one setting, or take it up; return its scores with the knobs beside them."""
    from harmbench.cli.run import make_progress
    from harmbench.config import MethodSpec, resolve
    from harmbench.engine.run import run

    config = resolve(
        methods=[MethodSpec(name=name, params=params) for name, params in PARAMS.items()],
        controls=list(CONTROLS),
        metrics=list(METRICS),
        data_options={**SIZE, **knobs},
        threads=threads,
    )
    name = "-".join(f"{knob}{value:g}" for knob, value in knobs.items())
    with make_progress(quiet=False) as progress:
        summary = run(config, folder / name, progress)
    scores = summary.scores
    return scores[scores["group"] == "all"].assign(**knobs)


def long_form(scores: pd.DataFrame) -> pd.DataFrame:
    """Return every knob's rows, the standard setting in each of them, as the panel shows them."""
    parts = []
    for knob in KNOBS:
        others = [name for name in KNOBS if name != knob]
        mine = (scores[others] == pd.Series(STANDARD)[others]).all(axis=1)
        parts.append(scores[mine].assign(knob=knob, level=scores.loc[mine, knob]))
    return pd.concat(parts, ignore_index=True)


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw a column a knob, a row a metric; methods in color, controls gray."""
    import matplotlib
    import seaborn as sns
    from matplotlib.figure import Figure

    labels = [*PARAMS, *CONTROLS]
    palette = dict(zip(PARAMS, sns.color_palette("colorblind"), strict=False))
    marks = dict(zip(labels, "osD^vPX*", strict=True))
    with matplotlib.rc_context({"font.size": 8.5, "legend.frameon": False}):
        figure = Figure(figsize=(10.5, 6.6), layout="constrained")
        axes = figure.subplots(len(METRICS), len(KNOBS), sharey="row", squeeze=False)
        for row, metric in zip(axes, METRICS, strict=True):
            for panel, knob in zip(row, KNOBS, strict=True):
                for label in labels:
                    held = table[(table["knob"] == knob) & (table["metric"] == metric)]
                    mine = held[held["label"] == label].sort_values("level")
                    ends = [mine["value"] - mine["ci_low"], mine["ci_high"] - mine["value"]]
                    panel.errorbar(
                        mine["level"], mine["value"], yerr=[end.clip(lower=0) for end in ends],
                        color=palette.get(label, "0.5"), ls="-" if label in PARAMS else ":",
                        marker=marks[label], ms=4, lw=1.2, elinewidth=0.8, label=label,
                    )  # fmt: skip
                panel.set_xticks(KNOBS[knob])
                panel.spines[["top", "right"]].set_visible(False)
                panel.set_xlabel(NAMES[knob] if metric == METRICS[-1] else "")
            row[0].set_ylabel(metric)
        handles, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(labels))
        figure.suptitle("The phantom's knobs, one at a time", fontweight="bold", x=0.01, ha="left")
        figure.savefig(path, dpi=200)


def markdown(table: pd.DataFrame) -> str:
    """Return one table a metric: settings down, methods across, nearest to the oracle in bold."""
    texts = []
    for metric in METRICS:
        held = table[table["metric"] == metric]
        wide = held.pivot_table("value", ["knob", "level"], "label", sort=False)
        wide = wide[[label for label in (*PARAMS, *CONTROLS) if label in wide]]
        mine = wide[[label for label in PARAMS if label in wide]]
        best = mine.sub(wide["oracle"], axis=0).abs().idxmin(axis=1)
        shown = wide.map(lambda value: f"{value:.4f}")
        for place, label in best.items():
            shown.loc[place, label] = f"**{shown.loc[place, label]}**"
        shown = shown.reset_index()
        texts.append(f"## {metric}\n\n{tabulate(shown, 'keys', 'pipe', showindex=False)}\n")
    return "\n".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/sensitivity"))
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    every = settings()
    rows = []
    for i, knobs in enumerate(every, start=1):
        print(f"setting {i} of {len(every)}: {knobs}", flush=True)
        rows.append(run_setting(knobs, given.out, given.threads))
    table = long_form(pd.concat(rows, ignore_index=True))
    table.to_csv(given.out / "sensitivity.csv", index=False)
    text = markdown(table)
    (given.out / "sensitivity.md").write_text(text, encoding="utf-8")
    draw(table, given.out / "sensitivity.png")
    print(text)


if __name__ == "__main__":
    main()
