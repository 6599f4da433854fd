"""Every command that README and the docs quote is accepted, and every Python block runs."""

import argparse
import importlib
import re
import shlex
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from torchvision.models.detection import fasterrcnn_resnet50_fpn

import rcnn
from rcnn.app.config import parse, register_schema
from rcnn.cli import main as command_line
from rcnn.cli.train import overrides_of
from rcnn.data import ShapesDataset
from rcnn.training.checkpoints import save

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs" / "pages").rglob("*.md")),
]
OTHER_PROGRAMS = ("python3 -m venv", "pip", "pytest", "mkdocs", "pre-commit", "bash .ci/run", ".")
"""Beginnings of commands of other programs."""

VALUES = {
    **{"...": "run", "<row>": "joint", "<part>": "detectors", "<table>": "anchors"},
    **{"<seed>": "0", "<folder>": "folder"},
}
"""What stands for placeholders; any other ``<word>`` becomes ``word``."""


def commands() -> list[tuple[str, str]]:
    """Return the quoted commands, in code blocks and in the text, with their pages."""
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
        lines = [line for block in blocks for line in block.splitlines()]
        inline = re.findall(r"`((?:python train\.py|python -m|rcnn) [^`]+)`", text)
        for line in [*lines, *(" ".join(one.split()) for one in inline)]:
            before_comment = re.split(r"(?:^|\s)#\s", line)[0]
            found += [(page.name, one.strip()) for one in before_comment.split(" && ")]
    return list(dict.fromkeys((page, command) for page, command in found if command))


def placeholders_filled(command: str) -> str:
    for placeholder, value in VALUES.items():
        command = command.replace(placeholder, value)
    return re.sub(r"<(\w+)[^>]*>", r"\1", command)


def compose_config(words: list[str]) -> None:
    """Compose and check what ``python train.py`` is given; of a sweep its first job."""
    if {"--cfg", "--help"} & set(words):
        return
    sweep = "-m" in words or any("sweep=" in word for word in words)
    overrides = [word for word in words if word != "-m" and not word.startswith("hydra")]
    if sweep:
        overrides = [
            re.sub(r"=(?:interval|choice)\(([^,]+),.*", r"=\1", word) for word in overrides
        ]
        overrides = [re.sub(r"^([^=]+=[^\[{,]*),.*", r"\1", word) for word in overrides]
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = compose("config", overrides=[*overrides, "run_dir=run", "++name=test"])
    plain = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    if plain["loader"]["batch_size"] == "auto":  # a run measures it before it checks the config
        plain["loader"]["batch_size"] = 1
    parse(plain)


def parse_arguments(words: list[str]) -> None:
    """Read the arguments of ``rcnn <command>`` without running it."""
    name, *rest = words
    command = command_line.COMMANDS[name]
    if name == "train":
        return compose_config([one for word in rest for one in overrides_of(word)])
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    parser.parse_args(rest)
    return None


def parse_benchmark(words: list[str]) -> None:
    parts = importlib.import_module("benchmarks.__main__").PARTS
    module = importlib.import_module(parts[words[0]])
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    parser.add_argument("--threads", type=int)
    parser.parse_args(words[1:])


@pytest.fixture
def user_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package and a folder that the pages take for the user's."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text(
        "from pytorch_lightning import Callback as MyCallback\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_data").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("user_package")
@pytest.mark.parametrize(("page", "command"), commands())
def test_a_quoted_command_is_accepted(page: str, command: str) -> None:
    register_schema()
    words = shlex.split(placeholders_filled(command))
    if words[:2] == ["python", "train.py"]:
        compose_config(words[2:])
    elif words[:3] == ["python", "-m", "benchmarks"] and words[3:]:
        parse_benchmark(words[3:])
    elif words[0] == "rcnn" and words[2:]:
        parse_arguments(words[1:])
    else:  # a command by its name alone, or of another program
        named = words[0] == "rcnn" and words[-1] in {*command_line.COMMANDS, "--help", "rcnn"}
        known = named or command.startswith((*OTHER_PROGRAMS, "python -m benchmarks"))
        assert known, f"nobody knows what {command!r} is"


def test_the_pages_quote_commands_of_every_kind() -> None:
    quoted = [command for _, command in commands()]
    for beginning in ("python train.py", "rcnn predict", "rcnn check-data", "python -m benchmarks"):
        assert any(command.startswith(beginning) for command in quoted)


def test_every_link_and_picture_of_the_pages_exists() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def python_blocks() -> list[tuple[str, str]]:
    blocks = []
    for page in PAGES:
        found = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
        blocks += [(f"{page.stem} {number}", code) for number, code in enumerate(found, 1)]
    return blocks


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the pages take for granted: a checkpoint, a picture, a folder in VOC layout."""
    monkeypatch.chdir(tmp_path)
    images = ShapesDataset(4, size=64)
    Image.fromarray(np.zeros((40, 60, 3), dtype=np.uint8)).save("street.jpg")
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "other_data" / name).mkdir(parents=True)
    for index in range(4):
        write_voc(tmp_path / "other_data", f"{index}", images, index)
    for split in ("train", "val", "test"):
        path = tmp_path / "other_data" / "ImageSets" / "Main" / f"{split}.txt"
        path.write_text("0\n1\n2\n3\n")
    settings = rcnn.DetectorSettings(
        images.class_names,
        images=rcnn.ImageSettings(64, 64),
        backbone=rcnn.BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None),
        anchors=rcnn.AnchorSettings(scales=(1.0, 2.0)),
    )
    save(rcnn.DetectionModule(settings), "best.ckpt")
    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), "fasterrcnn.pth")
    return tmp_path


def write_voc(root: Path, name: str, images: ShapesDataset, index: int) -> None:
    """Write a synthetic picture with its annotation."""
    sample = images[index]
    Image.fromarray(sample.image.permute(1, 2, 0).numpy()).save(root / "JPEGImages" / f"{name}.jpg")
    objects = "".join(
        f"<object><name>{images.class_names[label - 1]}</name><bndbox>"
        f"<xmin>{x1 + 1:.0f}</xmin><ymin>{y1 + 1:.0f}</ymin>"
        f"<xmax>{x2:.0f}</xmax><ymax>{y2:.0f}</ymax></bndbox></object>"
        for (x1, y1, x2, y2), label in zip(
            sample.ground_truth.boxes.tolist(), sample.ground_truth.labels.tolist(), strict=True
        )
    )
    size = "<size><width>64</width><height>64</height><depth>3</depth></size>"
    text = f"<annotation><filename>{name}.jpg</filename>{size}{objects}</annotation>"
    (root / "Annotations" / f"{name}.xml").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", [code for _, code in python_blocks()], ids=[title for title, _ in python_blocks()]
)
@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
@pytest.mark.filterwarnings("ignore:.*is not set to.*")
def test_a_python_block_of_the_pages_runs(code: str, folder: Path) -> None:
    pl.seed_everything(0)
    names: dict[str, object] = {}
    exec(compile(code, "page", "exec"), names)
    assert {"module", "norms", "detections", "data"} & names.keys()  # it came to its end
