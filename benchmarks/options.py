"""Options that several parts share."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import get_args

import torch

from benchmarks.peers import has_norms
from benchmarks.sides import Norm, Workload
from rcnn.model.backbones import SHIPPED
from rcnn.model.speed import SpeedSettings

MAIN = ["vgg16", "resnet18", "resnet50", "resnet50_fpn"]
"""The four backbones that are compared unless others are named."""


def parse_size(text: str) -> tuple[int, int]:
    """Read ``600x800``.

    Raises:
        argparse.ArgumentTypeError: it is no size.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write height x width, as 600x800")
    return int(height), int(width)


def add_workloads(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`workloads` reads."""
    known = ", ".join(SHIPPED)
    parser.add_argument(
        "--backbones", nargs="+", choices=SHIPPED, default=MAIN, metavar="NAME", help=f"of {known}"
    )
    parser.add_argument(
        "--norms",
        nargs="+",
        choices=get_args(Norm),
        default=["batch"],
        help="batch: learn, and count the minibatch; frozen: fixed, as on top of loaded weights",
    )
    parser.add_argument("--images", type=int, default=2, help="of a minibatch")


def workloads(arguments: argparse.Namespace, size: tuple[int, int]) -> Iterator[Workload]:
    """Give what is to be done at a size; a backbone without norms comes once."""
    for backbone in arguments.backbones:
        for norm in arguments.norms if has_norms(backbone) else ["batch"]:
            yield Workload(backbone, size, arguments.images, norm=norm)


def add_size(parser: argparse.ArgumentParser) -> None:
    """Add ``--size``."""
    parser.add_argument("--size", type=parse_size, default=(600, 800), metavar="HEIGHTxWIDTH")


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """Add ``--pairs``."""
    parser.add_argument("--pairs", type=int, help="measurements of each side")


def add_runtime(parser: argparse.ArgumentParser, compiles: bool = True) -> None:
    """Add the switches of :class:`benchmarks.runtime.Runtime`.

    Args:
        parser: which gets them.
        compiles: the part can measure compiled code.
    """
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--precision", choices=["32", "bf16"], default="32", help="of both sides")
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=SpeedSettings.channels_last,
        help="the memory format of our side (%(default)s, as in a training)",
    )
    parser.add_argument(
        "--winograd",
        action=argparse.BooleanOptionalAction,
        default=SpeedSettings.winograd,
        help="fewer multiplications on our side (%(default)s, as in a training)",
    )
    parser.add_argument(
        "--fold-norms",
        action=argparse.BooleanOptionalAction,
        default=SpeedSettings.fold_norms,
        help="fixed norms as a part of our convolutions (%(default)s, as in a training)",
    )
    parser.set_defaults(compile=False)
    if compiles:
        parser.add_argument("--compile", action="store_true", help="compile our side")
    parser.add_argument(
        "--both",
        action="store_true",
        help="memory format and compilation also of torchvision's side",
    )
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: of this process alone, for a machine that is not quiet",
    )
