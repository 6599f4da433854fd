"""Copying weights into a backbone, and saying what they did not cover."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from rcnn.model.backbones.backbone import Backbone
from rcnn.model.backbones.weight_file import WeightsError

COUNT = ".num_batches_tracked"
"""What files lack that were made before batch norms counted their batches, or by frozen ones."""


@dataclass(frozen=True, eq=False)
class LoadedWeights:
    """The weights that a backbone starts from.

    Attributes:
        source: ``"imagenet"``, ``"random"`` or the path of the file.
        message: one sentence for people, or what the weights are.
        tensors: by the keys of the file; None for random weights.
        own: the file is a checkpoint of this package, whose keys are ``body.*`` and ``tail.*``. Of
            another detector the body is wanted; its tail is taken where it is the same.
    """

    source: str
    message: str
    tensors: Mapping[str, Tensor] | None = None
    own: bool = False

    def load_into(self, backbone: Backbone) -> str:
        """Copy the weights into ``backbone``; random weights leave it as it is.

        Keys of the file that the backbone has no use for (the classifier's) are passed over.

        Returns:
            One sentence: where the backbone starts from, and what of it starts at random.

        Raises:
            WeightsError: the file lacks tensors or has them in other shapes.
        """
        if self.tensors is None:
            return self.message
        wanted = self._wanted(backbone)
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
        return self._sentence(_state(backbone), {name for name, _ in wanted.values()})

    def _wanted(self, backbone: Backbone) -> dict[str, tuple[str, Tensor]]:
        """Return our name and our tensor for every key that the file is to have."""
        state = _state(backbone)
        if self.own:
            tail = {name: tensor for name, tensor in state.items() if name.startswith("tail.")}
            fits = self._has(tail)
            return {
                name: (name, tensor) for name, tensor in state.items() if fits or name not in tail
            }
        return {
            theirs + name.removeprefix(ours): (name, tensor)
            for theirs, ours in backbone.weight_names.items()
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


def _state(backbone: Backbone) -> dict[str, Tensor]:
    state = {f"body.{key}": tensor for key, tensor in backbone.body.state_dict().items()}
    return state | {f"tail.{key}": tensor for key, tensor in backbone.tail.state_dict().items()}


def _parts(names: Iterable[str], covered: Collection[str]) -> tuple[list[str], list[str]]:
    """Name what is covered and what is not: body and tail, or their children where they differ."""
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
