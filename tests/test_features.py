"""The random network is fixed and independent of the batch; Inception's file is checked."""

import hashlib
import pickle
import urllib.error

import numpy as np
import pandas as pd
import pytest
import torch

from harmbench.contracts.cohort import Cohort
from harmbench.contracts.metric import MetricInputs
from harmbench.contracts.product import ProductContext, ProductUnavailable
from harmbench.errors import HarmbenchError
from harmbench.protocol.features import inception
from harmbench.protocol.features import products as features
from harmbench.protocol.features.products import extract, random_conv_weights


@pytest.fixture
def rng():
    return np.random.default_rng(4)


@pytest.fixture
def context():
    return ProductContext()


# random-conv


def test_weights_are_the_same_everywhere():
    flat = np.concatenate([a.ravel() for layer in random_conv_weights() for a in layer])
    assert flat.dtype == np.float32 and len(flat) == 139_072
    assert hashlib.sha256(flat.tobytes()).hexdigest()[:16] == "9b34b3e195ed7b7d"


def test_features_agree_with_a_plain_loop(rng, context):
    image = rng.random((16, 16)).astype(np.float32)
    x, expected = image[None].astype(np.float64), []
    for (kernel, bias), stride in zip(random_conv_weights(), (1, 2, 2), strict=True):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        size = x.shape[1] // stride
        out = np.empty((len(kernel), size, size))
        for i, j in np.ndindex(size, size):
            top, left = stride * i, stride * j
            out[:, i, j] = np.tensordot(kernel, padded[:, top : top + 3, left : left + 3], 3) + bias
        x = np.maximum(out, 0.2 * out)
        expected += [x.mean((1, 2)), x.std((1, 2))]
    got = extract(image[None], "random-conv", context)
    np.testing.assert_allclose(got[0], np.concatenate(expected), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [16, 37, 64, 128])
def test_any_size_gives_512_finite_numbers(rng, context, size):
    got = extract(rng.random((3, size, size), dtype=np.float32), "random-conv", context)
    assert got.shape == (3, 512) and got.dtype == np.float32
    assert np.isfinite(got).all() and (got.std(0) > 0).mean() > 0.8


def test_a_row_depends_on_its_image_alone(rng, context, monkeypatch):
    images = rng.random((9, 32, 32), dtype=np.float32)
    whole = extract(images, "random-conv", context)
    order = rng.permutation(9)
    np.testing.assert_allclose(
        extract(images[order], "random-conv", context), whole[order], rtol=1e-5, atol=1e-6
    )
    monkeypatch.setitem(features._BATCH, "random-conv", 2)
    np.testing.assert_allclose(extract(images, "random-conv", context), whole, rtol=1e-5, atol=1e-6)
    assert extract(images[:0], "random-conv", context).shape == (0, 512)


def test_values_outside_the_range_are_cut(rng, context):
    images = rng.normal(0.5, 1, (2, 32, 32)).astype(np.float32)
    cut = np.clip(images, 0, 1)
    np.testing.assert_array_equal(
        extract(images, "random-conv", context), extract(cut, "random-conv", context)
    )


def test_scale_of_features_suits_the_polynomial_kernel(rng, context):
    got = extract(rng.random((5, 64, 64), dtype=np.float32), "random-conv", context)
    assert 0.01 < (got @ got.T / 512).mean() < 10


def test_number_of_threads_is_put_back(rng):
    before = torch.get_num_threads()
    extract(rng.random((1, 32, 32), dtype=np.float32), "random-conv", ProductContext(threads=3))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("shape", [(2, 15, 32), (2, 32, 32, 32)])
def test_other_images_are_unavailable(context, shape):
    with pytest.raises(ProductUnavailable, match="2-D images"):
        extract(np.zeros(shape, np.float32), "random-conv", context)


def test_products_read_their_own_images(rng, context):
    table = pd.DataFrame({"participant_id": ["a", "b"], "session_id": "", "slice": 0})
    mask = np.ones((2, 32, 32), bool)
    found = {p.name: p for p in features.PRODUCTS}
    assert len(found) == len(features.PRODUCTS) == 8
    sources = {
        "test": ("harmonized.test", "cell"),
        "own_site": ("own_site.test", "cell"),
        "real": ("raw.real", "run"),
        "raw_test": ("raw.test", "run"),
    }
    cohorts = {
        source: Cohort(rng.random((2, 32, 32), dtype=np.float32), table, mask)
        for source, _ in sources.values()
    }
    for name, (source, scope) in sources.items():
        product = found[f"features.random-conv.{name}"]
        assert (product.needs, product.scope) == ((source,), scope)
        got = product.make(MetricInputs(cohorts, "ref"), context)["features"]
        np.testing.assert_array_equal(got, extract(cohorts[source].images, "random-conv", context))
        with pytest.raises(ProductUnavailable, match="not asked for"):
            found[f"features.inception.{name}"].make(MetricInputs(cohorts, "ref"), context)


# Inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights in the layout of pytorch-fid's, with its hash."""
    from pytorch_fid import inception as theirs

    class Stop(Exception):
        pass

    built = {}

    def catch(self, state, *_, **__):
        built["network"] = self
        raise Stop

    patch = pytest.MonkeyPatch()
    patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
    patch.setattr(torch.nn.Module, "load_state_dict", catch)
    with torch.random.fork_rng():
        torch.random.manual_seed(0)
        with pytest.raises(Stop):
            theirs.fid_inception_v3()
    patch.undo()
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(built["network"].state_dict(), path)
    return path, inception._sha256(path)[:8], built["network"].eval()


def test_loaded_network_holds_the_files_weights(weights, rng):
    path, prefix, network = weights
    state = torch.random.get_rng_state()
    loaded = inception.load_inception(str(path), sha256_prefix=prefix)
    torch.testing.assert_close(torch.random.get_rng_state(), state)
    assert not loaded.training
    first = loaded.blocks[0][0].conv.weight
    torch.testing.assert_close(first, network.Conv2d_1a_3x3.conv.weight.detach())
    with torch.inference_mode():
        got = loaded(torch.from_numpy(rng.random((1, 3, 40, 40), dtype=np.float32)))[0]
    assert got.shape == (1, 2048, 1, 1)


def test_inception_features_have_2048_columns(weights, rng, monkeypatch):
    path, prefix, _ = weights
    monkeypatch.setattr(
        inception.load_inception, "__kwdefaults__", {"device": "cpu", "sha256_prefix": prefix}
    )
    images = rng.random((2, 32, 32), dtype=np.float32)
    context = ProductContext(inception=str(path))
    got = extract(images, "inception", context)
    assert got.shape == (2, 2048)
    np.testing.assert_allclose(
        extract(images[1:], "inception", context), got[1:], rtol=1e-3, atol=1e-5
    )


def test_wrong_checksum_is_refused(weights):
    with pytest.raises(HarmbenchError, match="not 6726825d"):
        inception.load_inception(str(weights[0]))


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(HarmbenchError, match=r"no file .*nothing\.pth"):
        inception.load_inception(str(tmp_path / "nothing.pth"))


class Malicious:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_malicious_pickle_is_refused_and_not_run(tmp_path, writer):
    path, witness = tmp_path / "evil.pth", tmp_path / "witness"
    if writer == "torch":
        torch.save({"x": Malicious(witness)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(witness), protocol=2))
    prefix = inception._sha256(path)[:8]
    with pytest.raises(HarmbenchError, match="more than tensors"):
        inception.load_inception(str(path), sha256_prefix=prefix)
    assert not witness.exists()


def test_file_of_other_tensors_is_refused(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"x": torch.zeros(3)}, path)
    with pytest.raises(HarmbenchError, match="does not hold Inception weights"):
        inception.load_inception(str(path), sha256_prefix=inception._sha256(path)[:8])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    inception._cached_or_downloaded.cache_clear()
    yield tmp_path / "checkpoints"
    inception._cached_or_downloaded.cache_clear()


def test_failed_download_is_tried_once_and_explained(hub, monkeypatch):
    tries = []

    def fail(url, timeout):
        tries.append((url, timeout))
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(inception.urllib.request, "urlopen", fail)
    for _ in range(3):
        with pytest.raises(ProductUnavailable, match="no route"):
            inception.load_inception(None)
    assert tries == [(inception.URL, inception.CONNECT_SECONDS)]
    assert not list(hub.glob("*"))


@pytest.mark.parametrize("damage", ["content", "time"])
def test_bad_download_leaves_nothing_behind(hub, monkeypatch, damage):
    source = hub.parent / "source"
    source.write_bytes(b"something else")
    monkeypatch.setattr(inception, "URL", source.as_uri())
    if damage == "time":
        monkeypatch.setattr(inception, "TOTAL_SECONDS", -1.0)
    with pytest.raises(ProductUnavailable, match="SHA-256" if damage == "content" else "more than"):
        inception.load_inception(None)
    assert not list(hub.glob("*"))


def test_good_download_is_kept_and_used_from_the_cache(hub, weights, monkeypatch):
    path, prefix, _ = weights
    monkeypatch.setattr(inception, "SHA256_PREFIX", prefix)
    monkeypatch.setattr(inception, "URL", path.as_uri())
    found, reason = inception._cached_or_downloaded()
    assert found == hub / inception.FILE_NAME and not reason
    assert found.read_bytes() == path.read_bytes()
    inception._cached_or_downloaded.cache_clear()
    monkeypatch.setattr(inception, "URL", "file:///nowhere")
    assert inception._cached_or_downloaded() == (found, "")


def test_network_is_never_asked_where_it_is_not_wanted(monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("tried to download")

    monkeypatch.setattr(inception.urllib.request, "urlopen", forbidden)
    with pytest.raises(ProductUnavailable, match="not asked for"):
        inception.load_inception("never")
