"""How a box head of another project drops activations.

Letters: N RoIs, C channels, S pooled size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rcnn.interop.errors import InteropError


def read_dropout(head: nn.Module, channels: int, pooled_size: int) -> float:
    """Return the probability with which a head of two linear layers drops activations.

    The head is run once as in training, since only then dropout shows: where a head calls its
    ``nn.Dropout`` is written in its code, not in its structure.

    Args:
        head: takes pooled features ``N C S S``; has no other layers that training changes.
        channels: C.
        pooled_size: S.

    Raises:
        InteropError: activations are dropped otherwise than by ``nn.Dropout`` after both layers.
    """
    weight = next(head.parameters())
    pooled = torch.ones(2, channels, pooled_size, pooled_size).to(weight)
    probabilities: list[float] = []

    def note(layer: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        if isinstance(layer, nn.Dropout):
            probabilities.append(layer.p)

    hooks = [layer.register_forward_hook(note) for layer in head.modules()]
    modes = {layer: layer.training for layer in head.modules()}
    try:
        devices = [weight.device] if weight.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            trained = head.train()(pooled)
            called = list(probabilities)
            tested = head.eval()(pooled)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes.items():
            layer.training = training
    if not called and torch.equal(trained, tested):
        return 0.0
    if len(called) == 2 and called[0] == called[1]:
        return called[0]
    raise InteropError(
        f"The dropout of the box head, a {type(head).__name__}, is not supported: nn.Dropout is "
        f"called with the probabilities {called}. Supported are none, or two calls of nn.Dropout "
        "with one probability, after each of the two linear layers; F.dropout hides its own."
    )
