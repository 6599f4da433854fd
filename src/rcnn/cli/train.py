"""``rcnn train``: what ``python train.py`` does, with the config groups of the installation."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import rcnn


def run(words: Sequence[str]) -> int:
    """Run what Hydra's overrides and options say, with its outputs in the current folder.

    Args:
        words: overrides such as ``backbone=vgg16``, and Hydra's own options such as ``-m``; a
            folder among them is the data set, of which the layout is found out.
    """
    first = words[0] if words else "-"
    if "=" not in first and not first.startswith(("-", "+", "~")) and not Path(first).is_dir():
        where = Path(first).absolute()
        sys.stderr.write(f"Error: {where} is no folder, and {first!r} no KEY=VALUE.\n")
        return 2
    from rcnn.app.run import main  # it imports torch, for which the help does not wait

    sys.argv = ["rcnn train", *(word for given in words for word in overrides_of(given))]
    main(conf_folder())
    return 0


def overrides_of(word: str) -> list[str]:
    """Return the overrides that a word means: a folder means its data set."""
    if "=" in word or word.startswith(("-", "+", "~")) or not Path(word).is_dir():
        return [word]
    quoted = word.replace("\\", "\\\\").replace("'", "\\'")
    return ["data=auto", f"data.root='{quoted}'"]


def conf_folder() -> Path:
    """Return the folder of the config groups: the repository's, or that inside the wheel."""
    package = Path(rcnn.__file__).resolve().parent
    repository = package.parents[1]
    in_repository = (repository / "train.py").is_file()
    return (repository if in_repository else package) / "conf"
