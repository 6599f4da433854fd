"""``rcnn train``: what ``python train.py`` does, with the config groups of the installation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import rcnn


def run(words: Sequence[str]) -> int:
    """Run what Hydra's overrides and options say, with its outputs in the current folder.

    Args:
        words: overrides such as ``backbone=vgg16``, and Hydra's own options such as ``-m``.
    """
    from rcnn.app.run import main  # it imports torch, for which the help does not wait

    sys.argv = ["rcnn train", *words]
    main(conf_folder())
    return 0


def conf_folder() -> Path:
    """Return the folder of the config groups: the repository's, or that inside the wheel."""
    package = Path(rcnn.__file__).resolve().parent
    repository = package.parents[1]
    in_repository = (repository / "train.py").is_file()
    return (repository if in_repository else package) / "conf"
