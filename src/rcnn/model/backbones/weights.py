"""Which weights a backbone starts from, and what that means for its frozen layers.

Layers are frozen and batch norms fixed only on top of loaded weights; from random weights all of
the network learns, since frozen noise would stay noise.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

from rcnn.model.backbones.imagenet import (
    Download,
    DownloadError,
    cached_file,
    download,
    imagenet_url,
)
from rcnn.model.backbones.loading import LoadedWeights
from rcnn.model.backbones.settings import BackboneSettings
from rcnn.model.backbones.weight_file import WeightsError, read_weights
from rcnn.settings import require


class WeightsWarning(UserWarning):
    """A backbone starts from random weights although nobody asked for that."""


def resolve(
    settings: BackboneSettings, fetch: Download = download
) -> tuple[BackboneSettings, LoadedWeights]:
    """Find the weights that ``settings`` ask for, and settle ``norm`` and ``frozen_stages``.

    With loaded weights ``norm="auto"`` becomes ``"frozen"`` and ``frozen_stages`` stays. With
    random weights ``"auto"`` becomes ``"batch"``, and no stage is frozen. Warns with
    :class:`WeightsWarning` where ``weights="auto"`` ends in random weights. Where several
    processes train together, each resolves for itself and all must come to the same result.

    Args:
        settings: as the user wrote them.
        fetch: called with an address and a path where torch.hub's cache has no file yet.

    Raises:
        WeightsError: ImageNet weights were insisted on and cannot be had, or a file is not there,
            is broken, holds no state dict, or is a checkpoint of another backbone.
        SettingsError: ``norm="frozen"`` with random weights.
    """
    loaded = _find(settings, fetch)
    if loaded.tensors is not None:
        norm = "frozen" if settings.norm == "auto" else settings.norm
        return dataclasses.replace(settings, norm=norm), loaded
    require(
        settings.norm != "frozen",
        "backbone.norm",
        settings.norm,
        "frozen batch norms need loaded statistics, and the backbone starts from random weights "
        f"({loaded.message.rstrip('.')}); choose 'auto' or 'batch'",
    )
    return dataclasses.replace(settings, norm="batch", frozen_stages=0), loaded


def _find(settings: BackboneSettings, fetch: Download) -> LoadedWeights:
    if settings.weights is None:
        wish = "as backbone.weights=null asks for"
        message = f"The backbone {settings.name} starts from random weights, {wish}."
        return LoadedWeights("random", message)
    if settings.weights not in ("auto", "imagenet"):
        return _of_file(Path(settings.weights).expanduser(), settings.name)
    try:
        path = _imagenet_file(settings, fetch)
    except DownloadError as error:
        if settings.weights == "imagenet":
            raise WeightsError(f"backbone.weights='imagenet' is not possible: {error}") from error
        message = f"The backbone {settings.name} starts from RANDOM weights: {error}"
        warnings.warn(message, WeightsWarning, stacklevel=3)
        return LoadedWeights("random", message)
    return LoadedWeights("imagenet", f"ImageNet weights of {path}", read_weights(path).tensors)


def _of_file(path: Path, name: str) -> LoadedWeights:
    file = read_weights(path)
    if file.backbone is None:
        return LoadedWeights(str(path), f"weights of {path}", file.tensors)
    if file.backbone != name:
        raise WeightsError(
            f"backbone.weights: the detector in {path} has the backbone {file.backbone!r}, but "
            f"backbone.name is {name!r}. Name the same backbone, or give other weights."
        )
    return LoadedWeights(str(path), f"the checkpoint {path}", file.tensors, own=True)


def _imagenet_file(settings: BackboneSettings, fetch: Download) -> Path:
    own = (
        "set backbone.weights=<path of a state dict or a checkpoint>, or backbone.weights=null for "
        "random weights"
    )
    if settings.architecture is None:
        raise DownloadError(f"no ImageNet weights are known for {settings.name}. Ways out: {own}.")
    url = imagenet_url(settings.architecture)
    path = cached_file(url)
    if not path.exists():
        try:
            fetch(url, path)
        except DownloadError as error:
            raise DownloadError(
                f"the ImageNet weights of {settings.architecture} cannot be had ({error}). Ways "
                f"out: connect to the network; place the file of {url} at {path}; {own}."
            ) from error
    return path
