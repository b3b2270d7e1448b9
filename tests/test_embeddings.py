"""The axes of the embeddings find what they are made to find, and nothing is drawn into noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.decomposition import PCA
from support import make_run_folder

from reports.drawing import NoFigure
from reports.embeddings import age_plane, between_share, by_age, by_site, site_plane
from reports.results import read_results

RNG = np.random.default_rng(4)
SITES = np.repeat(["a", "b", "c"], 40)


def made_up(size: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return images of which pixel 0 differs by site, 1 less so, 2 follows age, 3 varies most."""
    ages = RNG.uniform(20, 80, len(SITES)) + 10 * (SITES == "c")
    pixels = 0.1 * RNG.standard_normal((len(SITES), size))
    pixels[:, 0] += 4.0 * (SITES == "b")
    pixels[:, 1] += 1.5 * (SITES == "c")
    pixels[:, 2] += 0.05 * ages
    pixels[:, 3] += 9.0 * RNG.standard_normal(len(SITES))
    return pixels, SITES, ages


def test_the_first_axis_is_what_sites_differ_in_not_what_varies_most() -> None:
    pixels, sites, _ = made_up()
    pixels[:, 3] -= np.array([pixels[sites == s, 3].mean() for s in sites])
    plane = site_plane(pixels, sites)
    assert abs(plane.axes[0, 0]) > 0.95 and abs(plane.axes[1, 1]) > 0.9
    assert np.abs(PCA(1).fit(pixels).components_[0, 3]) > 0.95


def test_the_plane_is_that_of_the_principal_components_of_the_site_means() -> None:
    pixels, sites, _ = made_up()
    means = np.stack([pixels[sites == s].mean(0) for s in "abc"])
    expected = PCA(2).fit(means).components_
    assert_allclose(np.abs(site_plane(pixels, sites).axes @ expected.T), np.eye(2), atol=1e-9)


def test_two_sites_have_one_direction_and_the_second_is_what_is_left() -> None:
    pixels, sites, _ = made_up()
    two = sites != "c"
    plane = site_plane(pixels[two], sites[two])
    assert plane.names[1] == "images of one site differ most"
    assert abs(plane.axes[1, 3]) > 0.9
    assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-9)


def test_older_is_up_and_the_sites_ages_do_not_count() -> None:
    pixels, sites, ages = made_up()
    pixels[:, 3] = 0
    plane = age_plane(pixels, sites, ages)
    assert plane.axes[1, 2] > 0.95
    assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-9)
    ages[5] = np.nan
    assert age_plane(pixels, sites, ages).axes[1, 2] > 0.95


def test_a_constant_age_has_no_direction() -> None:
    pixels, sites, ages = made_up()
    with pytest.raises(NoFigure, match="do not differ"):
        age_plane(pixels, sites, np.full_like(ages, 50))


def test_share_between_sites() -> None:
    values = np.array([[0.0], [0.0], [2.0], [2.0]])
    sites = np.array(["a", "a", "b", "b"])
    assert between_share(values, sites) == pytest.approx(1)
    assert between_share(values, sites[[0, 2, 1, 3]]) == pytest.approx(0)
    # Of noise, k sites explain (k - 1) / (n - 1).
    noise = RNG.standard_normal((120, 200))
    assert between_share(noise, SITES) == pytest.approx(2 / 119, rel=0.2)


def test_another_method_moves_no_dot(tmp_path: Path) -> None:
    one = make_run_folder(tmp_path / "one", methods=("combat",), controls=("identity",))
    two = make_run_folder(tmp_path / "two", methods=("combat", "ddae"), controls=("identity",))
    for draw in (by_site, by_age):
        dots = []
        for folder in (one, two):
            (drawn,) = draw(read_results(folder))
            before = drawn.figure.axes[0]
            assert before.get_title(loc="left") == "before"
            dots.append(np.concatenate([c.get_offsets() for c in before.collections]))
        assert len(dots[0]) == 12
        assert_allclose(dots[0], dots[1], atol=1e-6)


def test_all_panels_share_their_axes(tmp_path: Path) -> None:
    results = read_results(make_run_folder(tmp_path))
    (drawn,) = by_site(results)
    titles = [panel.get_title(loc="left") for panel in drawn.figure.axes]
    assert titles == ["before", "combat", "ddae", "oracle*†", "truth"]
    assert len({(panel.get_xlim(), panel.get_ylim()) for panel in drawn.figure.axes}) == 1
    assert "% (across)" in drawn.caption and "fit part" in drawn.caption


def test_without_images_there_is_nothing_to_embed(tmp_path: Path) -> None:
    results = read_results(make_run_folder(tmp_path, images=False))
    with pytest.raises(NoFigure, match="no method returned images"):
        by_site(results)
