"""Truncated SVD of a detector's box head."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from rcnn.files import whole_file
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.compression import TailSVD, compress, compressible_tail, tail_weight_count
from rcnn.training.module import save

PICTURE = torch.arange(3 * 48 * 64).reshape(3, 48, 64).remainder(251).to(torch.uint8)


@pytest.fixture
def linear(settings: DetectorSettings) -> DetectionModule:
    """A detector whose fc6 is 12544 x 32 and whose fc7 is 32 x 32."""
    torch.manual_seed(0)
    backbone = replace(settings.backbone, box_head="two_mlp", hidden=32, dropout=0.0)
    return DetectionModule(replace(settings, backbone=backbone), weights="somewhere").eval()


def test_full_ranks_compute_what_the_whole_layers_do(linear: DetectionModule) -> None:
    compressed = compress(linear, (32, 32))
    pooled = torch.rand(3, 256, 7, 7)
    whole, thin = linear.detector.roi_heads.box_head(pooled), compressed.detector.roi_heads.box_head(pooled)
    torch.testing.assert_close(thin, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ranks", [(8, 4), (8, 0), (0, 4)])
def test_layers_get_their_ranks_and_all_else_stays(
    ranks: tuple[int, int], linear: DetectionModule
) -> None:
    before = {name: tensor.clone() for name, tensor in linear.state_dict().items()}
    compressed = compress(linear, ranks)
    assert compressed.settings.backbone.ranks == ranks
    assert compressed.weights == "somewhere"
    box_head, state = compressed.detector.roi_heads.box_head, compressed.state_dict()
    for name, rank in zip(("fc6", "fc7"), ranks, strict=True):
        layer, key = getattr(box_head, name), f"detector.roi_heads.box_head.{name}."
        bias = state[f"{key}second.bias"] if rank else state[f"{key}bias"]
        torch.testing.assert_close(bias, before[f"{key}bias"], rtol=0, atol=0)
        if rank:
            assert (layer.first.out_features, layer.first.bias) == (rank, None)
            product = layer.second.weight @ layer.first.weight
            error = (product - before[f"{key}weight"]).norm().item()
            values = torch.linalg.svdvals(before[f"{key}weight"])
            assert error == pytest.approx(values[rank:].norm().item(), rel=1e-4)
    for name, tensor in before.items():
        torch.testing.assert_close(linear.state_dict()[name], tensor, rtol=0, atol=0)
        if ".roi_heads.box_head." not in name:
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_a_compressed_checkpoint_loads_like_any_other_and_predicts(
    linear: DetectionModule, tmp_path: Path
) -> None:
    compressed = compress(linear, (8, 0))
    save(compressed, tmp_path / "small.ckpt")
    loaded = DetectionModule.load_from_checkpoint(tmp_path / "small.ckpt")
    assert loaded.settings == compressed.settings
    expected, found = compressed.predict(PICTURE), loaded.predict(PICTURE)
    torch.testing.assert_close(found.boxes, expected.boxes)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.filterwarnings("ignore:Found .* in eval mode")
def test_a_compressed_detector_can_be_trained_on_and_tested_by_its_path(
    linear: DetectionModule,
    data: DetectionDataModule,
    trainer: Callable[..., pl.Trainer],
    tmp_path: Path,
) -> None:
    compressed = compress(linear, (8, 4))
    before = compressed.detector.roi_heads.box_head.fc6.first.weight.detach().clone()
    trainer().fit(compressed, data)
    assert not torch.equal(compressed.detector.roi_heads.box_head.fc6.first.weight, before)
    save(compressed, tmp_path / "small.ckpt")
    trainer().test(compressed, data, ckpt_path=tmp_path / "small.ckpt", verbose=False)


def test_mode_of_the_module_is_kept(linear: DetectionModule) -> None:
    assert not compress(linear, (8, 4)).training
    assert compress(linear.train(), (8, 4)).training


def test_energy_decides_each_rank_by_itself(linear: DetectionModule) -> None:
    box_head = linear.detector.roi_heads.box_head
    with torch.no_grad():
        box_head.fc7.weight.copy_(torch.diag(torch.tensor([3.0, 1.0] + [0.0] * 30)))  # 90 % and 10 %
    factors = TailSVD(linear)
    assert factors.ranks_for_energy(0.9)[1] == 1
    assert factors.ranks_for_energy(0.95)[1] == 2
    assert factors.ranks_for_energy(0.3)[0] < factors.ranks_for_energy(0.6)[0] < 32


def test_a_layer_stays_whole_where_its_product_would_have_as_many_weights(
    linear: DetectionModule,
) -> None:
    box_head = linear.detector.roi_heads.box_head
    with torch.no_grad():
        box_head.fc7.weight.copy_(torch.eye(32))  # whose product saves weights below rank 16
    assert TailSVD(linear).ranks_for_energy(0.4)[1] == 13
    assert TailSVD(linear).ranks_for_energy(0.5)[1] == 0
    with pytest.raises(SettingsError, match=r"energy=1\.0 .*as many weights as whole"):
        TailSVD(linear).ranks_for_energy(1.0)


def test_weights_are_counted_without_biases(linear: DetectionModule) -> None:
    box_head = compressible_tail(linear)
    assert tail_weight_count(box_head) == 12544 * 32 + 32 * 32
    assert tail_weight_count(box_head, (8, 0)) == 8 * (12544 + 32) + 32 * 32


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ((33, 4), r"fc6 \(12544 to 32\) has rank 32 at most"),
        ((4, 33), r"fc7 \(32 to 32\) has rank 32 at most"),
        ((0, 0), "at least one of them above 0"),
    ],
)
def test_impossible_ranks_are_an_error_that_names_the_layer(
    ranks: tuple[int, int], message: str, linear: DetectionModule
) -> None:
    with pytest.raises(SettingsError, match=message):
        compress(linear, ranks)


def test_layer4_cannot_be_compressed(module: DetectionModule) -> None:
    with pytest.raises(SettingsError, match=r"'resnet18', a Res5Head, .*backbone\.box_head=two_mlp"):
        compress(module, (4, 4))


def test_a_proposal_network_cannot_be_compressed(settings: DetectorSettings) -> None:
    with pytest.raises(SettingsError, match="system='rpn' has no layers behind a RoI pooling"):
        compress(DetectionModule(settings, system="rpn"), (4, 4))


def test_what_is_compressed_is_not_compressed_again(linear: DetectionModule) -> None:
    with pytest.raises(SettingsError, match=r"compressed already, to the ranks \(8, 4\)"):
        compress(compress(linear, (8, 4)), (4, 4))


def test_a_file_that_is_not_finished_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with suppress(ZeroDivisionError), whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("half of it")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"
    with whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["new"]
