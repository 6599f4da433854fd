"""Which weights a backbone starts from, and what that means for its frozen layers.

Layers are frozen and batch norms fixed only on top of loaded weights; from random weights all of
the network learns, since frozen noise would stay noise.
"""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rcnn.model.backbones.backbone import Backbone
from rcnn.model.backbones.imagenet import (
    Download,
    DownloadError,
    cached_file,
    download,
    imagenet_url,
)
from rcnn.model.backbones.settings import BackboneSettings
from rcnn.settings import require


class WeightsError(RuntimeError):
    """Weights that were asked for cannot be had or do not fit."""


class WeightsWarning(UserWarning):
    """A backbone starts from random weights although nobody asked for that."""


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """The weights that a backbone starts from.

    Attributes:
        source: ``"imagenet"``, ``"random"`` or the path of the file.
        message: one sentence for people.
        tensors: by the keys of the file; None for random weights.
    """

    source: str
    message: str
    tensors: Mapping[str, Tensor] | None = None

    def load_into(self, backbone: Backbone) -> None:
        """Copy the weights into ``backbone``; random weights leave it as it is.

        Keys of the file that the backbone has no use for (the classifier's) are passed over.

        Raises:
            WeightsError: the file lacks tensors or has them in other shapes.
        """
        if self.tensors is None:
            return
        wanted = _wanted(backbone)
        missing = [key for key in wanted if key not in self.tensors]
        # Files made before batch norms counted their batches, or by frozen ones, lack the count.
        missing = [key for key in missing if not key.endswith(".num_batches_tracked")]
        misfits = [
            f"{key} is {tuple(self.tensors[key].shape)} in the file "
            f"and {tuple(tensor.shape)} in the network"
            for key, tensor in wanted.items()
            if key in self.tensors and self.tensors[key].shape != tensor.shape
        ]
        if missing or misfits or not wanted:
            raise WeightsError(
                f"The weights ({self.message}) do not fit the backbone. "
                + _some("Missing", missing)
                + _some("Of another shape", misfits)
                + _some("The file has", list(self.tensors))
                + "Give a file of this architecture, or name another backbone."
            )
        for key, tensor in wanted.items():
            if key in self.tensors:
                tensor.copy_(self.tensors[key])


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
            is broken, or holds no state dict.
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
        path = Path(settings.weights).expanduser()
        return LoadedWeights(str(path), f"weights of {path}", _read(path))
    try:
        path = _imagenet_file(settings, fetch)
    except DownloadError as error:
        if settings.weights == "imagenet":
            raise WeightsError(f"backbone.weights='imagenet' is not possible: {error}") from error
        message = f"The backbone {settings.name} starts from RANDOM weights: {error}"
        warnings.warn(message, WeightsWarning, stacklevel=3)
        return LoadedWeights("random", message)
    return LoadedWeights("imagenet", f"ImageNet weights of {path}", _read(path))


def _imagenet_file(settings: BackboneSettings, fetch: Download) -> Path:
    own = "set backbone.weights=<path of a state dict>, or backbone.weights=null for random weights"
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


def _read(path: Path) -> dict[str, Tensor]:
    """Return the state dict of a file, taken out of the wrappers that trainers put around it."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(
            f"backbone.weights: there is no file {path}. Allowed are 'auto', 'imagenet', null or "
            "the path of a state dict."
        ) from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"backbone.weights: {path} cannot be read: it is broken (delete it), or it holds more "
            f"than tensors (save model.state_dict() alone). The reader says: {error}"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"backbone.weights: {path} holds no state dict.")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"backbone.weights: {path} holds no state dict: {key!r} is a "
                f"{type(value).__name__}, not a tensor."
            )
    return dict(content)


def _wanted(backbone: Backbone) -> dict[str, Tensor]:
    """Return the tensors of a backbone by the keys that a file has for them."""
    tensors = {f"body.{key}": tensor for key, tensor in backbone.body.state_dict().items()}
    tensors |= {f"tail.{key}": tensor for key, tensor in backbone.tail.state_dict().items()}
    return {
        theirs + key.removeprefix(ours): tensor
        for theirs, ours in backbone.weight_names.items()
        for key, tensor in tensors.items()
        if key.startswith(ours)
    }


def _some(title: str, entries: list[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return f"{title}: {'; '.join(entries[:3])}{more}. "
