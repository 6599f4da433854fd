"""The digest changes with what matters for proposals, and with nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rcnn.data import DetectionDataset, JoinedDataset, ShapesDataset, VOCDataset
from rcnn.data.stored import StoredProposals, attach, digest

SIZES = {"b": (40, 60), "a": (30, 30), "c": (50, 20)}


def test_digest_is_that_of_the_documented_text(dataset: DetectionDataset) -> None:
    # printf '["cat", "dog"]\n["a", 30, 30]\n["b", 40, 60]\n["c", 50, 20]' | sha256sum
    assert digest(dataset) == "d802186323374163c3e0838079eb2ba063a8ddb5cdd17df0077edabd6c109a4e"


def test_order_of_images_does_not_matter(make_dataset: Callable[..., DetectionDataset]) -> None:
    turned = dict(reversed(SIZES.items()))
    assert digest(make_dataset(turned)) == digest(make_dataset(SIZES))


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ({**SIZES, "d": (1, 1)}, ("cat", "dog")),
        ({"b": (40, 60), "a": (30, 30)}, ("cat", "dog")),
        ({**SIZES, "b": (60, 40)}, ("cat", "dog")),
        (SIZES, ("dog", "cat")),
        (SIZES, ("cat",)),
    ],
)
def test_images_sizes_and_classes_matter(
    make_dataset: Callable[..., DetectionDataset],
    sizes: dict[str, tuple[int, int]],
    names: tuple[str, ...],
) -> None:
    assert digest(make_dataset(sizes, names)) != digest(make_dataset())


def test_sizes_are_those_of_the_samples(
    write_voc: Callable[..., Path], dataset: DetectionDataset, stored_file: Path
) -> None:
    folder = write_voc("a")
    write_voc("b")
    voc = VOCDataset(folder, "train", class_names=("dog",))
    shapes = ShapesDataset(2, size=48)
    joined = JoinedDataset({"one": dataset, "two": dataset})
    proposed = attach(dataset, StoredProposals(stored_file))
    for each in (voc, shapes, joined, proposed, dataset):
        found = [list(each[index].original_size) for index in range(len(each))]
        assert each.sizes.tolist() == found


def test_sizes_are_known_without_decoding(write_voc: Callable[..., Path]) -> None:
    folder = write_voc("a")
    voc = VOCDataset(folder, "train", class_names=("dog",))
    joined = JoinedDataset({"one": voc})
    (folder / "JPEGImages" / "a.jpg").unlink()
    assert joined.sizes.tolist() == [[40, 60]]
    assert digest(joined) != digest(voc)
