"""``rcnn show-data``: pictures and objects as a training sees them."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from itertools import chain, islice

import torch
import yaml
from jaxtyping import UInt8
from torch import Tensor

from rcnn.cli.data import open_dataset
from rcnn.cli.train import conf_folder
from rcnn.data import (
    AspectGroupedBatchSampler,
    AugmentSettings,
    Sample,
    TrainingTransform,
    TransformedDataset,
)
from rcnn.files import whole_file
from rcnn.ops.boxes import scale
from rcnn.settings import SettingsError, from_plain, nearest
from rcnn.view import draw_ground_truth, stage_board, to_pil


def run(arguments: argparse.Namespace) -> int:
    """Draw the first pictures of a training, each under its name, into one file."""
    augment = read_augment(arguments.augment)
    dataset = open_dataset(arguments)
    transform = TrainingTransform(
        augment, arguments.shorter_side, arguments.longer_side, dataset=dataset
    )
    transformed = TransformedDataset(dataset, transform)
    sampler = AspectGroupedBatchSampler(dataset.aspect_ratios, 2, seed=arguments.seed)
    samples = map(transformed.__getitem__, chain.from_iterable(sampler))
    panels = [
        (sample.image_id, _draw(sample, dataset.class_names))
        for sample in islice(samples, arguments.count)
    ]
    with whole_file(arguments.out) as partial:
        to_pil(stage_board(panels, arguments.columns)).save(partial)
    sys.stdout.write(f"{len(panels)} pictures in {arguments.out}\n")
    return 0


def read_augment(words: Sequence[str]) -> AugmentSettings:
    """Return the settings of a preset with some changes.

    Args:
        words: name of a file in ``conf/augment``, then ``key=value`` for each change.

    Raises:
        SettingsError: the preset or a key is unknown (the nearest is named), or a value is not
            allowed.
    """
    name, *changes = words
    presets = {file.stem: file for file in (conf_folder() / "augment").glob("*.yaml")}
    if name not in presets:
        known = ", ".join(sorted(presets))
        raise SettingsError(f"Unknown augment={name}{nearest(name, presets)} Known: {known}.")
    values = yaml.safe_load(presets[name].read_text(encoding="utf-8")) or {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise SettingsError(f"augment.{change} is no change: write augment.{change}=VALUE.")
        values[key.removeprefix("augment.")] = yaml.safe_load(value)
    return from_plain(AugmentSettings, values, "augment")


def _draw(sample: Sample, class_names: Sequence[str]) -> UInt8[Tensor, "3 h w"]:
    sizes = torch.tensor([sample.image.shape[-2:], sample.original_size])
    boxes = scale(sample.ground_truth.boxes, sizes[0] / sizes[1])
    ground_truth = dataclasses.replace(sample.ground_truth, boxes=boxes)
    return draw_ground_truth(sample.image, ground_truth, class_names)
