"""What a loader's worker sends to the training process.

torch puts each tensor that changes process into a file of its own, whose descriptor the other side
has to ask for. For the pixels that is right, as nobody copies them; for the fifteen small tensors
of a minibatch it costs both processes more time than a JPEG takes to decode. Small tensors
therefore travel as bytes inside the message.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rcnn.structures import TensorFields

# Bytes up to which a tensor is copied through the pipe.
SMALL = 1 << 16


class _Call:
    """Stands in a pickle for what a call returns."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


def light(value: Any) -> Any:
    """Return what is pickled in place of ``value``, and becomes its equal when it is unpickled.

    Args:
        value: tensors, :class:`TensorFields` and tuples of such; anything else stays as it is.
    """
    if isinstance(value, Tensor):
        small = value.device.type == "cpu" and value.numel() * value.element_size() <= SMALL
        return _Call(torch.from_numpy, value.numpy()) if small else value
    if isinstance(value, TensorFields):
        fields = dataclasses.fields(value)  # type: ignore[arg-type]
        return _Call(type(value), *(light(getattr(value, field.name)) for field in fields))
    if isinstance(value, tuple):
        return tuple(map(light, value))
    return value
