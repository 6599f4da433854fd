"""Torchvision's ImageNet weights: where they lie in the cache, and how they get there."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torchvision.models import get_model_weights

# Enough for a slow server to answer; a machine without network must not hang for minutes.
TIMEOUT_SECONDS = 10.0

Download = Callable[[str, Path], None]


class DownloadError(RuntimeError):
    """A file could not be fetched; the message says why."""


def imagenet_url(architecture: str) -> str:
    """Return the address of the weights of a classification network.

    Of each network the first weights (``IMAGENET1K_V1``), those that detectors are known with.
    """
    url: str = get_model_weights(architecture)["IMAGENET1K_V1"].url
    return url


def cached_file(url: str) -> Path:
    """Return where torch.hub keeps the file of ``url``, be it there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def download(url: str, target: Path) -> None:
    """Fetch a file whose name ends in the first digits of its SHA-256.

    Several processes may do so at once: each writes a file of its own and then moves it in place.

    Raises:
        DownloadError: no connection within seconds, no place to write to, or other contents than
            the name promises.
    """
    digits = target.stem.rpartition("-")[2]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(TIMEOUT_SECONDS):
            torch.hub.download_url_to_file(url, str(target), digits, progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise DownloadError(f"{url}: {error}") from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
