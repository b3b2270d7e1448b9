"""Outside a scan's own mask nothing changes, and no method depends on the unit of intensities."""

import numpy as np
import pytest

from baselines.combat import Combat, combat_nocov
from baselines.controls import HistogramMatching, SiteShift
from harmbench.checks import toy_cohort
from harmbench.config import MethodSpec, resolve
from harmbench.contracts.method import ApplyContext, FitContext
from harmbench.engine.run import run
from harmbench.protocol.probes.training import TASKS, _standardization
from harmbench.registry import load, names

SMALL = {
    "ddae": {"images": 16, "channels": 8, "multipliers": (1, 2), "patch": 4, "steps": 2},
    "ddae-blind": {"images": 16, "channels": 8, "multipliers": (1, 2), "patch": 4, "steps": 2},
    "cvae": {"images": 16, "width": 8, "depth": 1, "grid": 8},
    "gan": {"images": 16, "channels": 4, "style_dim": 3},
}
OTHERS = {"returned"}  # images from files; see tests/test_external.py
PLUGIN = """
from harmbench import Harmonizer, MethodInfo

class Everywhere(Harmonizer):
    @property
    def info(self):
        return MethodInfo("everywhere", "Everywhere", "Adds to every voxel.")

    def fit(self, cohort, context):
        return self

    def harmonize(self, cohort, target=None, *, context):
        return cohort.images + 0.5
"""


@pytest.fixture(scope="module")
def harmonized(tmp_path_factory):
    """Return images and masks of a test part, and every method's images of it."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "plug.py").write_text(PLUGIN)
    known = [name for name in names("method") if name not in OTHERS]
    specs = [MethodSpec(name=name, params=SMALL.get(name, {})) for name in known]
    specs.append(MethodSpec(name=f"{folder / 'plug.py'}:Everywhere", label="everywhere"))
    config = resolve(
        data="phantom", preset="smoke", methods=specs, controls=["none"], metrics=["truth_mae"],
        data_options={"n": 240, "size": 32}, threads=1,
    )  # fmt: skip
    run(config, folder / "out")

    def read(place, name):
        (file,) = (folder / "out").glob(f"{place}/{name}-*.npy")
        return np.load(file)

    from harmbench.config import build_dataset
    from harmbench.data.splits import make_split

    cohort = build_dataset(config).load()
    test = cohort.subset(make_split(cohort, 0).part == "test")
    found = {
        spec.title: read(f"cells/{spec.title.replace('+', '_')}-????????/seed-0/products",
                         "harmonized.test")
        for spec in specs
    }  # fmt: skip
    return test, found


def test_every_method_is_looked_at(harmonized):
    assert set(names("method")) - OTHERS < set(harmonized[1])


def test_outside_its_own_mask_no_image_changes(harmonized):
    test, found = harmonized
    exempt = {name for name in set(found) - {"everywhere"} if not _info(name).own_background}
    assert {"oracle", "ceiling", "shuffle", "mean-image"} <= exempt
    for name in set(found) - exempt:
        np.testing.assert_array_equal(found[name][~test.mask], test.images[~test.mask], name)
    # What is checked is not the images themselves.
    assert not np.array_equal(found["everywhere"], test.images)
    assert not np.array_equal(found["shuffle"][~test.mask], test.images[~test.mask])


def _info(name):
    return load("method", name)().info


@pytest.mark.parametrize("unit", [1e-5, 1e5])
@pytest.mark.parametrize("make", [Combat, combat_nocov, SiteShift, HistogramMatching])
def test_the_unit_of_intensities_changes_nothing(make, unit):
    cohort = toy_cohort()
    scaled = cohort.with_images(cohort.images * np.float32(unit))
    context = FitContext(reference_site=cohort.sites[0])
    one, other = (
        make().fit(c, context).harmonize(c, context=ApplyContext()) for c in (cohort, scaled)
    )
    np.testing.assert_allclose(other / unit, one, rtol=1e-3, atol=1e-4)
    assert np.abs(one - cohort.images).max() > 0.01


@pytest.mark.parametrize("unit", [1e-5, 1e5])
@pytest.mark.parametrize("task", TASKS)
def test_probes_see_the_same_images_in_any_unit(task, unit):
    cohort = toy_cohort()
    scaled = cohort.with_images(cohort.images * np.float32(unit))
    seen = []
    for one in (cohort, scaled):
        held = _standardization(one, task)
        seen.append((one.images - held["image_mean"]) / held["image_scale"])
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-3, atol=1e-4)


def test_probes_of_images_without_contrast_stay_finite():
    cohort = toy_cohort()
    for value in (0.0, 0.7):
        flat = cohort.with_images(np.full_like(cohort.images, value))
        assert 0 < _standardization(flat, "age")["image_scale"] < np.inf
