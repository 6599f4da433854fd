"""Reading checkpoints: what is refused, and with which remedy."""

from pathlib import Path

import pytest
import torch

from rcnn.inference.checkpoint import (
    CHECKPOINT_FORMAT,
    CHECKPOINT_KEY,
    CheckpointError,
    read_checkpoint,
)


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_a_checkpoint_of_this_format_is_read(tmp_path: Path) -> None:
    content = {CHECKPOINT_KEY: {"format": CHECKPOINT_FORMAT}, "state_dict": {"a": torch.ones(2)}}
    found = read_checkpoint(written(tmp_path / "some.ckpt", content))
    assert found[CHECKPOINT_KEY] == content[CHECKPOINT_KEY]
    assert torch.equal(found["state_dict"]["a"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged\.ckpt: cannot be read"):
        read_checkpoint(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.ckpt"):
        read_checkpoint(tmp_path / "none.ckpt")


class Executed:
    """Leaves a file behind if a reader executes it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = written(tmp_path / "evil.ckpt", {CHECKPOINT_KEY: Executed(trace)})
    with pytest.raises(CheckpointError, match=r"evil\.ckpt"):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {CHECKPOINT_KEY: 3}])
def test_a_foreign_file_is_refused_with_the_way_for_torchvision(
    content: object, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"foreign\.ckpt: .*rcnn\.interop"):
        read_checkpoint(written(tmp_path / "foreign.ckpt", content))


@pytest.mark.parametrize(
    ("found", "remedy"), [(2, "Train again"), (1, "Train again"), (4, "newer"), (None, "newer")]
)
def test_another_format_is_refused_in_one_line(
    found: int | None, remedy: str, tmp_path: Path
) -> None:
    path = written(tmp_path / "old.ckpt", {CHECKPOINT_KEY: {"format": found}})
    with pytest.raises(
        CheckpointError, match=rf"old\.ckpt: has format {found};.*{remedy}"
    ) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
