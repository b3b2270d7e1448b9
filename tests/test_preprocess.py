from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nilearn.image import resample_img
from scipy import ndimage

from harmbench.data.planes import foreground, threshold_of
from harmbench.data.preprocess import Prepared, PreprocessConfig, scale
from harmbench.data.preprocess import prepare as prepare_all
from harmbench.errors import HarmbenchError

CONFIG = PreprocessConfig(size=32, spacing=4.0)


def nifti(data: np.ndarray, *sides: float) -> nib.Nifti1Image:
    return nib.Nifti1Image(data, np.diag([*(sides or (1.0, 1.0, 1.0)), 1.0]))


def prepare(image: nib.Nifti1Image, mask, config: PreprocessConfig) -> Prepared:
    """The one slice of a scan."""
    (only,) = prepare_all(image, mask, config)
    return only


def ellipse(shape=(120, 130), center=(50.0, 70.0), radii=(30.0, 40.0)) -> np.ndarray:
    """A stripped 'brain' with a gradient and an asymmetric dark spot, on a background of 0."""
    x, y = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    inside = ((x - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 < 1
    spot = (x - center[0] - 12) ** 2 + (y - center[1] - 15) ** 2 < 30
    return (inside * (100 + x + 2 * y - 90 * spot)).astype(np.float32)


def test_slices_of_any_layout_give_the_same():
    flat = ellipse()
    expected = prepare(nifti(flat[..., None]), None, CONFIG)
    for data in (flat, flat[None], flat[:, None], flat[..., None, None]):
        got = prepare(nifti(data), None, CONFIG)
        assert np.array_equal(got.image, expected.image)
        assert np.array_equal(got.mask, expected.mask)


def test_stored_orientation_does_not_matter():
    volume = np.stack([ellipse() * k for k in (0.5, 1.0, 0.7)], axis=-1)
    image = nifti(volume, 1.0, 1.2, 3.0)
    expected = prepare(image, None, CONFIG)
    for codes in ("LPS", "ASR", "SPL"):
        turned = image.as_reoriented(
            nib.orientations.ornt_transform(
                nib.orientations.io_orientation(image.affine),
                nib.orientations.axcodes2ornt(tuple(codes)),
            )
        )
        assert turned.shape != volume.shape or codes == "LPS"
        np.testing.assert_allclose(prepare(turned, None, CONFIG).image, expected.image, atol=1e-6)


def test_first_axis_is_right_and_second_is_front():
    data = ellipse()
    image = prepare(nifti(data), None, CONFIG).image
    brightness = ndimage.center_of_mass(np.where(image > 0, image, 0))
    shape = ndimage.center_of_mass(image > 0)
    assert brightness[1] > shape[1] + 0.3  # brighter to the front
    left = prepare(nib.Nifti1Image(data, np.diag([-1.0, 1, 1, 1])), None, CONFIG).image
    assert np.abs(left[::-1] - image).max() < 1e-6


def test_the_brain_is_centered_wherever_it_was():
    middle = (CONFIG.size - 1) / 2
    for center in ((40.0, 50.0), (71.0, 83.0)):
        mask = prepare(nifti(ellipse(center=center)), None, CONFIG).mask
        np.testing.assert_allclose(ndimage.center_of_mass(mask), middle, atol=0.1)
    registered = PreprocessConfig(size=32, spacing=4.0, center="image")
    mask = prepare(nifti(ellipse()), None, registered).mask
    expected = middle + (np.array([50, 70]) - [59.5, 64.5]) / 4
    np.testing.assert_allclose(ndimage.center_of_mass(mask), expected, atol=0.15)


@pytest.mark.parametrize("sides", [(1.0, 1.0), (1.0, 0.5), (0.8, 1.1)])
def test_areas_in_millimeters_are_kept(sides):
    data = ellipse(shape=(150, 180), center=(70.2, 90.1), radii=(30 / sides[0], 40 / sides[1]))
    mask = prepare(nifti(data[..., None], *sides, 1.0), None, CONFIG).mask
    assert mask.sum() * 16 == pytest.approx(np.pi * 30 * 40, rel=0.03)


def test_resampling_to_a_finer_grid_agrees_with_nilearn():
    data = np.random.default_rng(0).random((7, 8, 1), dtype=np.float32) + 0.1
    config = PreprocessConfig(size=9, spacing=0.5, center="image", scaled=True)
    affine = np.diag([0.5, 0.5, 1.0, 1.0])
    affine[:2, 3] = np.array([3.0, 3.5]) - 0.5 * 4  # the middles of both grids coincide
    reference = resample_img(
        nifti(data), affine, (9, 9, 1), "linear", copy_header=True, force_resample=True
    )
    got = prepare(nifti(data), None, config).image
    np.testing.assert_allclose(got, reference.get_fdata()[..., 0], atol=1e-5)


def test_a_final_image_on_its_own_grid_comes_back_unchanged():
    data = np.random.default_rng(0).normal(0.5, 0.4, (9, 9)).astype(np.float32)
    side = 220 / 9
    config = PreprocessConfig(size=9, center="image", scaled=True)
    got = prepare(nifti(data, side, side, side), None, config)
    assert np.array_equal(got.image, data)


def test_coarser_grids_are_smoothed_first():
    x, y = np.meshgrid(np.arange(128), np.arange(128), indexing="ij")
    stripes = np.where(((x - 63.5) ** 2 + (y - 63.5) ** 2) < 55**2, 1.0 + (x + y) % 2, 0)
    image = prepare(nifti(stripes.astype(np.float32)), None, CONFIG).image
    inside = image[12:20, 12:20]
    assert np.ptp(inside) < 0.05 * inside.mean()


def test_gain_does_not_matter_and_the_percentile_becomes_one():
    one = prepare(nifti(ellipse()), None, CONFIG)
    np.testing.assert_allclose(
        prepare(nifti(ellipse() * 37), None, CONFIG).image, one.image, atol=1e-6
    )
    for gain in (1e-30, 1e33):
        got = prepare(nifti(ellipse() * np.float32(gain)), None, CONFIG)
        np.testing.assert_allclose(got.image, one.image, atol=1e-5)
    assert one.image.min() == 0 and one.image.max() == 1
    values = np.arange(1, 1001, dtype=np.float32)
    scaled = scale(values, values > 0, percentile=99.5)
    assert scaled[500] == pytest.approx(501 / np.percentile(values, 99.5))
    assert np.count_nonzero(scaled == 1) == 5


def test_the_slope_in_the_header_is_applied():
    raw = nifti(ellipse().astype(np.int16))
    raw.header.set_slope_inter(2.0, 0.0)
    stored = nib.Nifti1Image.from_bytes(raw.to_bytes())
    config = PreprocessConfig(size=130, spacing=1.0, center="image", scaled=True)
    plain = prepare(nifti(ellipse().astype(np.int16).astype(np.float32)), None, config)
    np.testing.assert_allclose(prepare(stored, None, config).image, 2 * plain.image)


def test_the_slice_is_the_stated_one_or_the_largest():
    radii = [10, 20, 40, 30]
    volume = np.stack([ellipse(radii=(r * 0.75, r)) for r in radii], axis=-1)
    image = nifti(volume, 1.0, 1.0, 5.0)
    image.affine[2, 3] = -10  # planes at -10, -5, 0, 5 mm

    def area(z):
        return prepare(image, None, PreprocessConfig(129, 1.0, z=z)).mask.sum()

    expected = [np.pi * r * r * 0.75 for r in radii]
    np.testing.assert_allclose([area(z) for z in (-10, -6, 1.2, 5)], expected, rtol=0.03)
    assert area(None) == area(0)
    with pytest.raises(HarmbenchError, match=r"z = 40 mm .* from -10.0 to 5.0"):
        area(40)


def test_a_head_in_noise_is_found_and_specks_and_holes_are_mended():
    rng = np.random.default_rng(0)
    clean = ellipse() > 0
    head = ellipse() + rng.rayleigh(6, clean.shape).astype(np.float32)
    found = foreground(head, threshold_of(head))
    assert np.count_nonzero(found ^ clean) < 0.02 * clean.sum()
    holed = np.where(clean, 1.0, 0).astype(np.float32)
    holed[48:53, 66:75] = 0
    holed[3:6, 3:6] = 1
    assert threshold_of(holed) == 0
    assert np.array_equal(foreground(holed, 0.0), clean)


def test_a_mask_file_strips_the_head():
    data = ellipse() + 5
    mask = ellipse(radii=(20, 30)) > 0
    got = prepare(nifti(data), nifti(mask.astype(np.uint8)), PreprocessConfig(128, 1.0))
    assert got.mask.sum() == pytest.approx(np.pi * 600, rel=0.03)
    grown = ndimage.binary_dilation(got.mask, iterations=2)
    assert got.image[~grown].max() == 0


def test_nan_around_the_brain_is_background():
    data = ellipse()
    expected = prepare(nifti(data), None, CONFIG)
    got = prepare(nifti(np.where(data == 0, np.nan, data)), None, CONFIG)
    assert np.array_equal(got.image, expected.image) and np.array_equal(got.mask, expected.mask)


def test_several_slices_are_those_of_their_heights():
    radii = [10, 20, 40, 36, 30, 24, 12]
    volume = np.stack([ellipse(radii=(r * 0.75, r)) for r in radii], axis=-1)
    image = nifti(volume, 1.0, 1.0, 2.5)
    image.affine[2, 3] = -5  # planes at -5, -2.5, 0, 2.5, 5, 7.5, 10 mm

    def areas(**asked):
        config = PreprocessConfig(129, 1.0, **asked)
        return [one.mask.sum() for one in prepare_all(image, None, config)]

    expected = [np.pi * r * r * 0.75 for r in (10, 40, 30)]
    np.testing.assert_allclose(areas(slices=3, step=5.0), expected, rtol=0.03)
    np.testing.assert_allclose(areas(slices=3, step=5.0, z=0.4), expected, rtol=0.03)
    assert areas(slices=5, step=2.5, z=5.0)[2] == areas(z=5.0)[0]
    turned = nib.Nifti1Image(volume[..., ::-1], image.affine @ np.diag([1, 1, -1, 1]))
    turned.affine[2, 3] = 10
    lower = [
        one.mask.sum() for one in prepare_all(turned, None, PreprocessConfig(129, 1, slices=3))
    ]
    assert lower == areas(slices=3)


def broken(kind: str) -> np.ndarray:
    data = ellipse()
    if kind == "nan":
        data[50, 70] = np.nan
    if kind == "all nan":
        data[:] = np.nan
    if kind == "inf":
        data[3, 3] = np.inf
    if kind == "zscore":
        data[data > 0] -= data[data > 0].mean()
    if kind == "constant":
        data[:] = 4
    if kind == "binary":
        data = np.float32(data > 0)
    return np.stack([data] * 3, axis=-1)[..., None].repeat(2, -1) if kind == "series" else data


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("nan", "1 of its values are NaN in the brain"),
        ("all nan", "all of its values are NaN"),
        ("inf", "1 of its values are infinite"),
        ("zscore", "negative"),
        ("constant", "constant"),
        ("binary", "more than one intensity"),
        ("series", "neither a slice nor a volume"),
    ],
)
def test_images_that_cannot_be_used_are_refused(kind, sentence):
    with pytest.raises(HarmbenchError, match=sentence):
        prepare(nifti(broken(kind)), None, CONFIG)


def test_a_brain_larger_than_the_grid_is_refused():
    with pytest.raises(HarmbenchError, match=r"lies outside the grid of 32 x 2 mm"):
        prepare(nifti(ellipse()), None, PreprocessConfig(size=32, spacing=2.0))


def test_a_mask_on_another_grid_is_refused():
    with pytest.raises(HarmbenchError, match="another grid"):
        prepare(nifti(ellipse()), nifti(np.ones((7, 8, 1), np.uint8)), CONFIG)


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"spacing": -1.0},
        {"percentile": 10},
        {"center": "left"},
        {"slices": 4},
        {"slices": 0},
        {"step": 0.0},
        {"z": float("nan")},
        {"size": 10**6},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(HarmbenchError, match="must"):
        PreprocessConfig(**wrong)
