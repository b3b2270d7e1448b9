"""pytorch-fid's InceptionV3: its weights are found or downloaded, checked and loaded.

pytorch-fid's own loader has no time limit and unpickles any file. Here the download has a limit,
the file is compared with the hash in its name and read by `torch.load` with ``weights_only=True``;
the network is built by pytorch-fid.
"""

from __future__ import annotations

import hashlib
import pickle
import time
import urllib.request
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from harmbench.contracts.product import ProductUnavailable
from harmbench.errors import HarmbenchError
from harmbench.files.atomic import write_atomic

if TYPE_CHECKING:
    import torch

FILE_NAME = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE_NAME}"
SHA256_PREFIX = "6726825d"
CONNECT_SECONDS = 10.0
TOTAL_SECONDS = 300.0


def load_inception(
    choice: str | None, *, device: str = "cpu", sha256_prefix: str = SHA256_PREFIX
) -> torch.nn.Module:
    """Return pytorch-fid's InceptionV3 up to its last average pooling, in evaluation mode.

    Parameters
    ----------
    choice : str or None
        File of the weights. None searches torch's cache and then downloads them, once in a
        process; ``"never"`` does neither.
    device : str
        Device of the network.
    sha256_prefix : str
        First hex digits of the file's SHA-256; the default is that of the weights for `fid_*`.

    Returns
    -------
    Module
        Maps (n, 3, h, w) in [0, 1] to a list of one tensor (n, 2048, 1, 1).

    Raises
    ------
    ProductUnavailable
        If no weights are wanted or available.
    HarmbenchError
        If the given file is missing or is not the right one.
    """
    if choice == "never":
        raise ProductUnavailable("Inception weights were not asked for in this run")
    if choice is None:
        path, reason = _cached_or_downloaded()
        if path is None:
            raise ProductUnavailable(f"no Inception weights: {reason}")
    else:
        path = Path(choice)
        if not path.is_file():
            raise HarmbenchError(f"there is no file {path} of Inception weights; get it from {URL}")
    return _build(_read(path, sha256_prefix)).eval().to(device)


def _read(path: Path, sha256_prefix: str) -> dict[str, Any]:
    """Check and read a file of weights; only tensors are unpickled."""
    import torch

    found = _sha256(path)
    if not found.startswith(sha256_prefix):
        raise HarmbenchError(
            f"{path} is not pytorch-fid's file of Inception weights: its SHA-256 starts with "
            f"{found[: len(sha256_prefix)]}, not {sha256_prefix}; get it again from {URL}"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first_line = (str(error).strip() or repr(error)).splitlines()[0]
        raise HarmbenchError(
            f"{path} contains more than tensors, or is damaged: {first_line}"
        ) from error


def _build(state: dict[str, Any]) -> torch.nn.Module:
    """Build pytorch-fid's network with a state dict, without its downloader."""
    import torch
    from pytorch_fid import inception

    try:
        # The layers are initialized at random; the global generator must not change.
        with (
            torch.random.fork_rng(devices=[]),
            patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state),
        ):
            return inception.InceptionV3([inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    except (RuntimeError, TypeError) as error:
        raise HarmbenchError(f"the file does not hold Inception weights: {error}") from error


@cache
def _cached_or_downloaded() -> tuple[Path | None, str]:
    """Return the file in torch's cache, after a download if necessary, or why there is none.

    The result is cached, so a failed download is not repeated in this process.
    """
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE_NAME
    if path.is_file() and _sha256(path).startswith(SHA256_PREFIX):
        return path, ""
    try:
        _download(URL, path, SHA256_PREFIX)
    except (OSError, ValueError) as error:
        return None, f"{URL} could not be fetched ({error}); give --inception-weights FILE"
    return path, ""


def _download(url: str, path: Path, sha256_prefix: str) -> None:
    """Download a file within the time limit and move it into place if its hash is right."""
    deadline = time.monotonic() + TOTAL_SECONDS

    def fetch(temporary: Path) -> None:
        with (
            temporary.open("wb") as out,
            urllib.request.urlopen(url, timeout=CONNECT_SECONDS) as answer,
        ):
            while block := answer.read(1 << 20):
                out.write(block)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"took more than {TOTAL_SECONDS:.0f} s")
        found = _sha256(temporary)
        if not found.startswith(sha256_prefix):
            raise ValueError(f"its SHA-256 starts with {found[:8]}, not {sha256_prefix}")

    write_atomic(path, fetch)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
