"""rcnn show-data as people type it."""

from pathlib import Path

import pytest
from PIL import Image

from rcnn.cli.main import main
from rcnn.cli.show_data import read_augment
from rcnn.cli.train import conf_folder
from rcnn.data import AugmentSettings
from rcnn.settings import SettingsError


def show(*words: object) -> int:
    small = ("--shorter-side", 64, "--longer-side", 64)
    return main(["show-data", "shapes", "--split", "train", *map(str, (*small, *words))])


def test_grid_shows_the_first_pictures_of_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "grids" / "strong.png"
    assert show("--augment", "strong", "--count", 3, "--columns", 2, "--out", file) == 0
    assert capsys.readouterr().out == f"3 pictures in {file}\n"
    with Image.open(file) as grid:
        assert grid.width > 2 * 64
        assert len(grid.getcolors(1 << 24) or []) > 1000


def test_grid_depends_on_preset_changes_and_seed(tmp_path: Path) -> None:
    def grid(name: str, *words: object) -> bytes:
        assert show("--count", 2, "--out", tmp_path / f"{name}.png", *words) == 0
        return (tmp_path / f"{name}.png").read_bytes()

    plain = grid("plain", "--augment", "none")
    assert grid("again", "--augment", "none") == plain
    assert grid("changed", "--augment", "strong", "crop=0", "colour_jitter=0") != plain
    assert grid("seed", "--augment", "none", "--seed", 1) != plain
    off = ("scale_jitter=[1,1]", "crop=0", "colour_jitter=0", "blur=0", "noise=0", "flip=0")
    assert grid("off", "--augment", "strong", *off) == plain


def test_every_preset_is_sound_and_the_default_is_the_papers() -> None:
    presets = {
        file.stem: read_augment([file.stem]) for file in conf_folder().glob("augment/*.yaml")
    }
    names = {"none", "paper", "light", "strong", "large_scale_jitter", "copy_paste"}
    assert presets.keys() == names
    assert presets["paper"] == AugmentSettings()
    assert presets["none"] == AugmentSettings(flip=0.0)
    assert len(set(map(repr, presets.values()))) == len(names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stong"], "augment=stong, did you mean 'strong'"),
        (["light", "blurr=1"], "'augment.blurr', did you mean 'blur'"),
        (["light", "augment.blur=2"], r"augment\.blur=2"),
        (["light", "blur"], r"write augment\.blur=VALUE"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest(words: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_augment(words)
