"""The weights that a network starts from: ImageNet's, those of a file, or random ones.

1. ``resolve`` finds the weights that the settings ask for, and settles what is frozen.
2. ``LoadedWeights.load_into`` copies them into a network and says what they do not cover.
3. ``read_weights`` reads state dicts of other projects and checkpoints of this one.
"""

from __future__ import annotations

import dataclasses
import http.client
import pickle
import socket
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import get_model_weights

from rcnn.model.backbones.backbone import BackboneSettings, SplitNetwork
from rcnn.settings import require

# Enough for a slow server to answer; a machine without network must not hang for minutes.
TIMEOUT_SECONDS = 10.0

Download = Callable[[str, Path], None]

RECORD = "rcnn"
"""The key that only checkpoints of this package have."""

OWN_NAMES = {"detector.backbone.": "backbone.", "detector.roi_heads.box_head.": "box_head."}
"""Prefixes of keys in a checkpoint, and of the same tensors in a ``SplitNetwork``."""

COUNT = ".num_batches_tracked"
"""A key that files lack if their batch norms were frozen, or older than this counter."""


class WeightsError(RuntimeError):
    """The weights that the settings ask for cannot be found, or do not fit the network."""


class WeightsWarning(UserWarning):
    """A backbone starts from random weights although the settings do not ask for that."""


class DownloadError(RuntimeError):
    """A file could not be downloaded; the message says why."""


def imagenet_url(architecture: str) -> str:
    """Return the address of the weights of a classification network.

    Of each network the first weights (``IMAGENET1K_V1``), those that detectors are known with.
    """
    url: str = get_model_weights(architecture)["IMAGENET1K_V1"].url
    return url


def cached_file(url: str) -> Path:
    """Return the path at which torch.hub keeps the file of ``url``; the file may not exist yet."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def download(url: str, target: Path) -> None:
    """Download a file, and check it against the digits of its SHA-256 that its name ends in.

    Several processes may do so at once: each writes a file of its own, then renames it.

    Raises:
        DownloadError: there is no connection within seconds, the folder cannot be written to, or
            the contents do not match the name.
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


def resolve(
    settings: BackboneSettings, fetch: Download = download
) -> tuple[BackboneSettings, LoadedWeights]:
    """Find the weights that ``settings`` ask for, and resolve ``norm`` and ``frozen_stages``.

    With loaded weights ``norm="auto"`` becomes ``"frozen"`` and ``frozen_stages`` stays. With
    random weights ``"auto"`` becomes ``"batch"``, and no stage is frozen. Warns with
    ``WeightsWarning`` if ``weights="auto"`` ends in random weights.

    Args:
        settings: settings as the user wrote them.
        fetch: function of an address and a path, called if torch.hub's cache lacks the file.

    Raises:
        WeightsError: ``weights="imagenet"`` cannot be found; or a file is missing or broken, holds
            no state dict, or is a checkpoint of another backbone.
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
                f"the ImageNet weights of {settings.architecture} are not available ({error}). "
                f"Ways out: connect to the network; put the file of {url} at {path}; {own}."
            ) from error
    return path


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """The weights that a network starts from.

    Attributes:
        source: ``"imagenet"``, ``"random"`` or the path of the file.
        message: one sentence for people, or the name of the weights.
        tensors: tensors by the keys of the file; None for random weights.
        own: the file is a checkpoint of this package, whose keys are ``backbone.*`` and
            ``box_head.*``. The backbone of another detector has to fit; its box head is taken if
            it is the same.
    """

    source: str
    message: str
    tensors: Mapping[str, Tensor] | None = None
    own: bool = False

    def load_into(self, network: SplitNetwork) -> str:
        """Copy the weights into ``network``; random weights leave it as it is.

        Keys of the file that the network does not have (the classifier's) are ignored.

        Returns:
            One sentence: where the backbone starts from, and what of it starts at random.

        Raises:
            WeightsError: the file lacks tensors or has them in other shapes.
        """
        if self.tensors is None:
            return self.message
        wanted = self._wanted(network)
        missing = [key for key in wanted if key not in self.tensors and not key.endswith(COUNT)]
        misfits = [
            f"{key} is {tuple(self.tensors[key].shape)} in the file "
            f"and {tuple(tensor.shape)} in the network"
            for key, (_, tensor) in wanted.items()
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
        for key, (_, tensor) in wanted.items():
            if key in self.tensors:
                tensor.copy_(self.tensors[key])
        return self._sentence(_state(network), {name for name, _ in wanted.values()})

    def _wanted(self, network: SplitNetwork) -> dict[str, tuple[str, Tensor]]:
        """Return our name and our tensor for every key that the file should have."""
        state = _state(network)
        if self.own:
            box_head = {
                name: tensor for name, tensor in state.items() if name.startswith("box_head.")
            }
            fits = self._has(box_head)
            return {
                name: (name, tensor)
                for name, tensor in state.items()
                if fits or name not in box_head
            }
        return {
            theirs + name.removeprefix(ours): (name, tensor)
            for theirs, ours in network.weight_names.items()
            for name, tensor in state.items()
            if name.startswith(ours)
        }

    def _has(self, state: Mapping[str, Tensor]) -> bool:
        """Return whether the file has all these tensors in the same shapes."""
        found = self.tensors or {}
        return all(
            found[name].shape == tensor.shape if name in found else name.endswith(COUNT)
            for name, tensor in state.items()
        )

    def _sentence(self, state: Mapping[str, Tensor], covered: Collection[str]) -> str:
        taken, left = _parts(state, covered)
        start = f"The backbone starts from {self.message}: {', '.join(taken)}"
        verb = "starts" if len(left) == 1 else "start"
        return f"{start}; {' and '.join(left)} {verb} at random." if left else f"{start}."


def _state(network: SplitNetwork) -> dict[str, Tensor]:
    state = {f"backbone.{key}": tensor for key, tensor in network.backbone.state_dict().items()}
    return state | {
        f"box_head.{key}": tensor for key, tensor in network.box_head.state_dict().items()
    }


def _parts(names: Iterable[str], covered: Collection[str]) -> tuple[list[str], list[str]]:
    """Name what is covered and what is not: backbone and box head, or their differing children."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.split(".")[0], []).append(name)
    taken: list[str] = []
    left: list[str] = []
    for part, members in groups.items():
        hits = [name in covered for name in members]
        if all(hits) or not any(hits):
            (taken if all(hits) else left).append(part)
            continue
        for child in dict.fromkeys(".".join(name.split(".")[:2]) for name in members):
            within = all(name in covered for name in members if name.startswith(f"{child}."))
            (taken if within else left).append(child)
    return taken, left


def _some(title: str, entries: list[str]) -> str:
    if not entries:
        return ""
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return f"{title}: {'; '.join(entries[:3])}{more}. "


@dataclass(frozen=True, eq=False)
class WeightFile:
    """The tensors of a file.

    Attributes:
        tensors: tensors by the keys of the file; of a checkpoint only ``backbone.*`` and
            ``box_head.*``.
        backbone: name of a checkpoint's backbone; None for a bare state dict.
    """

    tensors: Mapping[str, Tensor]
    backbone: str | None = None


def read_weights(path: Path) -> WeightFile:
    """Read a checkpoint, or a state dict with or without the wrapper that a trainer put around it.

    Raises:
        WeightsError: the file is missing or broken, or holds no state dict.
    """
    content = _load(path)
    record = content.get(RECORD) if isinstance(content, Mapping) else None
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
    if not isinstance(record, Mapping):
        return WeightFile(dict(content))
    tensors = {
        ours + key.removeprefix(theirs): tensor
        for theirs, ours in OWN_NAMES.items()
        for key, tensor in content.items()
        if key.startswith(theirs)
    }
    return WeightFile(tensors, record["settings"]["backbone"]["name"])


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise WeightsError(
            f"backbone.weights: there is no file {path}. Allowed are 'auto', 'imagenet', null or "
            "the path of a state dict or of a checkpoint."
        ) from error
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsError(
            f"backbone.weights: {path} cannot be read: it is broken (delete it), or it holds more "
            f"than tensors (save model.state_dict() alone). The reader says: {error}"
        ) from error
