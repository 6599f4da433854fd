"""Switches that make a detector faster and change rounding only.

Checkpoints do not depend on them: weights have the same names and values with any choice.
"""

from __future__ import annotations

import ctypes
import sys
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.kernels.conv import FastConv2d, FoldedNorm2d, fits_winograd
from rcnn.model.backbones import SHIPPED
from rcnn.model.build import Detector
from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.settings import settings


@settings
class SpeedSettings:
    """How a detector is run; its results are the same up to rounding.

    Attributes:
        channels_last: the channels of a cell lie side by side in memory, which is how the kernels
            for convolutions want them, on a CPU and on a GPU.
        winograd: on a CPU, convolutions of 3 x 3 cells and many channels take a quarter of the
            multiplications (``rcnn.kernels.winograd``). Rounding changes a result by about 1e-6
            of its size instead of 2e-7. It is not for compiled parts.
        fold_norms: batch norms with fixed statistics and weights are computed as a part of the
            convolutions before them; in the shipped backbones only.
        compile: let ``torch.compile`` fuse what does the same for every image: backbone, RPN
            head, box head and box predictor. That takes minutes at the start, and a C++ compiler
            (CPU) or Triton (GPU); it pays in long runs. Sizes of images and numbers of RoIs may
            vary.
        matmul: precision of float32 matrix products on a GPU: ``highest`` has 24 bits, ``high`` and
            ``medium`` 11 or fewer, several times as fast (convolutions have 11 in any case, unless
            ``torch.backends.cudnn.allow_tf32`` is off). It holds for the whole process.
        keep_memory: what a step frees on a CPU stays with the process for the next one
            (``rcnn.model.speed.keep_freed_memory``).
    """

    channels_last: bool = True
    winograd: bool = True
    fold_norms: bool = True
    compile: bool = False
    matmul: Literal["highest", "high", "medium"] = "highest"
    keep_memory: bool = True


def prepare(detector: Detector, speed: SpeedSettings) -> None:
    """Give a detector its memory format, its fast layers and its compiled parts, in place.

    The names in its state dict stay, and weights that are loaded later take the format. Call it
    before an optimiser is made, and before DDP wraps the module.
    """
    # Which norm follows which convolution is known of the shipped networks alone.
    fold_norms = speed.fold_norms and detector.settings.backbone.name in SHIPPED
    for part in static_parts(detector).values():
        if speed.channels_last:
            part.to(memory_format=torch.channels_last)
        _replace_convolutions(part, winograd=speed.winograd, fold_norms=fold_norms)
        if speed.compile:
            # All sizes are variables: a part is compiled again only for another mode (training or
            # detecting), and for a size of 1, which PyTorch never takes for a variable.
            part.compile(dynamic=True)


def _replace_convolutions(part: nn.Module, *, winograd: bool, fold_norms: bool) -> None:
    """Replace, in place, the convolutions that can be computed faster."""
    for parent in list(part.modules()):
        # torchvision names a norm right after the convolution that it follows.
        for (name, layer), (after, norm) in pairwise([*parent.named_children(), ("", None)]):
            if type(layer) is not nn.Conv2d:
                continue
            folded = None
            if fold_norms and type(norm) is FrozenBatchNorm2d:
                folded = FoldedNorm2d(norm)
                setattr(parent, after, folded)
            fits = winograd and fits_winograd(layer)
            if folded or fits:
                setattr(parent, name, FastConv2d(layer, folded, winograd=fits))


def static_parts(detector: Detector) -> dict[str, nn.Module]:
    """Return the parts of a detector, by name, that run the same layers on every input."""
    parts: dict[str, nn.Module] = {"backbone": detector.backbone}
    if isinstance(detector, FasterRCNN | ProposalNetwork):
        parts["rpn_head"] = detector.rpn.head
    if isinstance(detector, FasterRCNN | FastRCNN):
        heads = detector.roi_heads
        parts |= {"box_head": heads.box_head, "box_predictor": heads.box_predictor}
    return parts


def align_state(optimizer: Optimizer) -> None:
    """Give the optimiser's state of each parameter the parameter's memory format.

    A state that was saved in one format and is loaded into another keeps its own. The fused CPU
    kernels read both in the order of memory without a check, so that each weight would get the
    momentum of another one (seen with torch 2.15).
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if (
                isinstance(value, Tensor)
                and value.shape == parameter.shape
                and value.stride() != parameter.stride()
            ):
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""``mallopt``'s numbers for: free bytes at the heap's top that go back; blocks outside the heap."""


def keep_freed_memory() -> None:
    """Let the C library keep what is freed, for the whole process.

    A training step frees hundreds of megabytes that the next one asks for again. glibc hands large
    blocks back to the system, which then clears each page again when it is first touched: a tenth
    of a step on a CPU. Without glibc nothing is done.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    mallopt = getattr(library, "mallopt", None)
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, -1)  # never
        mallopt(MMAP_MAX, 0)  # none
