"""Truncated SVD against hand-worked matrices, torch's routine and the paper's arithmetic."""

from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rcnn.inference.compress import (
    BoxHeadSVD,
    Ranks,
    SingularValues,
    compressible_head,
    decompose,
    measure_layer,
    ranks_for_seconds,
    stage_seconds,
)
from rcnn.model.backbones import BackboneSettings
from rcnn.model.build import build_detector, needs_proposals
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError
from rcnn.structures import Proposals
from rcnn.training import DetectionModule
from rcnn.training.checkpoints import save

# Rows along (3, 4) / 5 and (-4, 3) / 5, so that the singular values are those of the diagonal.
TURN = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
HAND = TURN @ torch.diag(torch.tensor([10.0, 5.0])) @ torch.eye(2, 3)
PICTURE = torch.arange(3 * 48 * 64).reshape(3, 48, 64).remainder(251).to(torch.uint8)


def matrix(seed: int, outputs: int, inputs: int) -> Tensor:
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed))


def diagonal(*values: float) -> SingularValues:
    return decompose(torch.diag(torch.tensor(values)))


# --- one matrix -----------------------------------------------------------------------------


def test_a_hand_worked_matrix_loses_its_smaller_value() -> None:
    found = decompose(HAND)
    torch.testing.assert_close(found.values, torch.tensor([10.0, 5.0]).double())
    first, second = found.truncated(1)
    # 10 times the first column of the turn, in the first row of the identity
    expected = torch.tensor([[6.0, 0.0, 0.0], [8.0, 0.0, 0.0]])
    torch.testing.assert_close(second @ first, expected)
    assert (HAND - second @ first).norm().item() == pytest.approx(5.0)


@hypothesis.settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5))
def test_the_error_at_every_rank_is_what_the_discarded_values_say(
    outputs: int, inputs: int, seed: int
) -> None:
    weight = matrix(seed, outputs, inputs)
    values = torch.linalg.svdvals(weight.double())
    found = decompose(weight)
    torch.testing.assert_close(found.values, values, rtol=1e-9, atol=1e-6)
    errors = []
    for rank in range(1, len(values) + 1):
        first, second = found.truncated(rank)
        error = (weight - second @ first).norm().item()
        assert error == pytest.approx(values[rank:].norm().item(), abs=1e-5)
        errors.append(error)
    assert all(later <= error + 1e-6 for error, later in pairwise(errors))


@pytest.mark.parametrize("rank", [0, 3])
def test_a_rank_that_the_matrix_does_not_have_is_an_error(rank: int) -> None:
    with pytest.raises(SettingsError, match=f"rank={rank} .* 1 to 2"):
        decompose(HAND).truncated(rank)


@pytest.mark.parametrize(("share", "rank"), [(0.01, 1), (0.79, 1), (0.81, 2), (0.97, 3), (1.0, 3)])
def test_energy_is_the_share_of_the_squares(share: float, rank: int) -> None:
    # squares 16, 3 and 1: after one value 80 %, after two 95 %
    assert diagonal(4.0, 3**0.5, 1.0).rank_for_energy(share) == rank


def test_a_share_that_a_rank_keeps_exactly_needs_no_more() -> None:
    assert diagonal(3.0, 1.0).rank_for_energy(0.9) == 1
    assert diagonal(0.0, 0.0).rank_for_energy(0.9) == 1


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(SettingsError, match=f"energy={share}"):
        diagonal(1.0, 1.0).rank_for_energy(share)


# --- a detector -----------------------------------------------------------------------------


@pytest.fixture
def settings() -> DetectorSettings:
    return DetectorSettings(
        class_names=("circle", "square"),
        images=ImageSettings(shorter_side=64, longer_side=64),
        backbone=BackboneSettings(
            name="resnet18",
            norm="batch",
            frozen_stages=0,
            weights=None,
            box_head="two_mlp",
            hidden=32,
            dropout=0.0,
        ),
    )


@pytest.fixture
def whole(settings: DetectorSettings) -> DetectionModule:
    """A detector with an fc6 of 12544 x 32 and an fc7 of 32 x 32."""
    torch.manual_seed(0)
    return DetectionModule(settings, weights="somewhere").eval()


def box_head(module: DetectionModule) -> nn.Module:
    return module.detector.get_submodule("roi_heads.box_head")


def set_fc7(module: DetectionModule, weight: Tensor) -> BoxHeadSVD:
    with torch.no_grad():
        compressible_head(module.detector).get_parameter("fc7.weight").copy_(weight)
    return BoxHeadSVD(module.detector)


def test_full_ranks_compute_what_the_whole_layers_do(whole: DetectionModule) -> None:
    pooled = torch.rand(3, 256, 7, 7)
    thin = box_head(whole.compressed((32, 32)))(pooled)
    torch.testing.assert_close(thin, box_head(whole)(pooled), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ranks", [(8, 4), (8, 0), (0, 4)])
def test_layers_get_their_ranks_and_all_else_stays(ranks: Ranks, whole: DetectionModule) -> None:
    before = {name: tensor.clone() for name, tensor in whole.state_dict().items()}
    compressed = whole.compressed(ranks)
    assert compressed.settings.backbone.ranks == ranks
    state = compressed.state_dict()
    for name, rank in zip(("fc6", "fc7"), ranks, strict=True):
        key = f"detector.roi_heads.box_head.{name}."
        bias = state[f"{key}second.bias"] if rank else state[f"{key}bias"]
        torch.testing.assert_close(bias, before[f"{key}bias"], rtol=0, atol=0)
        if rank:
            assert f"{key}first.bias" not in state
            first, second = state[f"{key}first.weight"], state[f"{key}second.weight"]
            assert len(first) == rank
            error = (second @ first - before[f"{key}weight"]).norm().item()
            values = torch.linalg.svdvals(before[f"{key}weight"])
            assert error == pytest.approx(values[rank:].norm().item(), rel=1e-4)
    for name, tensor in before.items():
        torch.testing.assert_close(whole.state_dict()[name], tensor, rtol=0, atol=0)
        if ".roi_heads.box_head." not in name:
            torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


def test_a_compressed_module_keeps_everything_but_the_ranks(settings: DetectorSettings) -> None:
    speed = SpeedSettings(winograd=False)
    module = DetectionModule(
        settings,
        system="fast_rcnn",
        scheme="joint",
        seed=3,
        plus_one=True,
        weights="somewhere",
        speed=speed,
    )
    for one in (module, module.eval()):
        compressed = one.compressed((8, 4))
        assert compressed.training == one.training
        assert compressed.system == "fast_rcnn"
        assert (compressed.seed, compressed.scheme) == (3, "joint")
        assert (compressed.plus_one, compressed.val_scores.voc.plus_one) == (True, True)
        assert (compressed.weights, compressed.speed) == ("somewhere", speed)
        assert compressed.recipe is module.recipe


def test_a_compressed_checkpoint_loads_like_any_other_and_predicts(
    whole: DetectionModule, tmp_path: Path
) -> None:
    compressed = whole.compressed((8, 0))
    save(compressed, tmp_path / "small.ckpt")
    loaded = DetectionModule.load_from_checkpoint(tmp_path / "small.ckpt")
    assert loaded.settings == compressed.settings
    expected, found = compressed.predict(PICTURE), loaded.predict(PICTURE)
    torch.testing.assert_close(found.boxes, expected.boxes)
    torch.testing.assert_close(found.scores, expected.scores)


def test_thin_layers_learn(whole: DetectionModule) -> None:
    head = box_head(whole.compressed((8, 4)).train())
    head(torch.rand(3, 256, 7, 7)).sum().backward()
    for parameter in head.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_energy_decides_each_rank_by_itself(whole: DetectionModule) -> None:
    factors = set_fc7(whole, torch.diag(torch.tensor([3.0, 1.0] + [0.0] * 30)))  # 90 % and 10 %
    assert factors.ranks_for_energy(0.9)[1] == 1
    assert factors.ranks_for_energy(0.95)[1] == 2
    assert factors.ranks_for_energy(0.3)[0] < factors.ranks_for_energy(0.6)[0] < 32


def test_a_layer_stays_whole_where_its_product_would_have_as_many_weights(
    whole: DetectionModule,
) -> None:
    factors = set_fc7(whole, torch.eye(32))  # the product saves weights below rank 16
    assert factors.ranks_for_energy(0.4)[1] == 13
    assert factors.ranks_for_energy(0.5)[1] == 0
    with pytest.raises(SettingsError, match=r"energy=1\.0"):
        factors.ranks_for_energy(1.0)


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ((33, 4), r"\(33, 4\).*fc6 \(12544 to 32\)"),
        ((4, 33), r"\(4, 33\).*fc7 \(32 to 32\)"),
        ((0, 0), r"ranks=\(0, 0\)"),
    ],
)
def test_impossible_ranks_are_an_error_that_names_the_layer(
    ranks: Ranks, message: str, whole: DetectionModule
) -> None:
    with pytest.raises(SettingsError, match=message):
        whole.compressed(ranks)


def test_a_detector_without_whole_linear_layers_is_refused(
    settings: DetectorSettings, whole: DetectionModule
) -> None:
    layer4 = replace(settings, backbone=replace(settings.backbone, box_head="own"))
    with pytest.raises(SettingsError, match=r"'resnet18'.*Res5Head.*backbone\.box_head=two_mlp"):
        DetectionModule(layer4).compressed((4, 4))
    with pytest.raises(SettingsError, match="proposal network"):
        DetectionModule(settings, system="rpn").compressed((4, 4))
    with pytest.raises(SettingsError, match=r"already.*\(8, 4\)"):
        whole.compressed((8, 4)).compressed((4, 4))


# --- ranks for a time -----------------------------------------------------------------------

# A second for each rank of fc6, half a second for each of fc7; whole, 6 and 3 seconds.
FC6 = torch.tensor([6.0, 1, 2, 3, 4, 5]).double()
FC7 = FC6 / 2
FLAT = diagonal(1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
STEEP = diagonal(10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)


def test_a_layer_with_falling_values_gives_its_time_to_the_other() -> None:
    # fc6 loses 1/6 with each rank; fc7 has nearly everything in its first value.
    assert ranks_for_seconds((FLAT, FC6), (STEEP, FC7), 5.5) == (5, 1)
    # Now fc6 needs one rank alone, and the time is enough for the whole of fc7.
    assert ranks_for_seconds((STEEP, FC6), (FLAT, FC7), 5.0) == (2, 0)


@pytest.mark.parametrize("limit", [1.5, 2.0, 3.2, 4.0, 5.9, 8.9])
def test_the_choice_is_the_best_of_all_pairs_within_the_time(limit: float) -> None:
    layers = diagonal(3.0, 2, 2, 1, 1, 1), diagonal(2.0, 2, 2, 1, 0, 0)

    def lost(ranks: Ranks) -> float:
        return sum(
            float(layer.lost_energy()[rank]) if rank else 0.0
            for layer, rank in zip(layers, ranks, strict=True)
        )

    ranks = ranks_for_seconds((layers[0], FC6), (layers[1], FC7), limit)
    pairs = product(range(6), range(6))
    allowed = [(first, second) for first, second in pairs if FC6[first] + FC7[second] <= limit]
    assert ranks in allowed
    assert lost(ranks) == pytest.approx(min(map(lost, allowed)), abs=1e-6)


@pytest.mark.parametrize(("seconds", "named"), [(9.0, "9e+03 ms"), (1.4, "1.5e+03 ms")])
def test_a_time_that_needs_no_compression_or_that_no_rank_keeps_is_an_error(
    seconds: float, named: str
) -> None:
    with pytest.raises(SettingsError, match=f"milliseconds={1000 * seconds:g} ") as error:
        ranks_for_seconds((FLAT, FC6), (FLAT, FC7), seconds)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "outputs", "last"), [(40, 10, 8), (10, 40, 8), (2, 2, 1), (1, 4, 1)]
)
def test_a_layer_is_timed_up_to_the_rank_of_as_many_weights(
    inputs: int, outputs: int, last: int
) -> None:
    seconds = measure_layer(nn.Linear(inputs, outputs), rois=3, min_run_time=1e-4)
    assert len(seconds) == 1 + last
    assert seconds.min() > 0


# --- time of every stage --------------------------------------------------------------------

HEADS = ["roi pooling", "box head", "detections"]


@pytest.mark.parametrize(
    ("system", "expected"),
    [
        ("faster_rcnn", ["backbone", "rpn head", "proposals", *HEADS, "rest"]),
        ("fast_rcnn", ["backbone", *HEADS, "rest"]),
        ("sppnet", ["backbone", *HEADS, "rest"]),
        ("rcnn", ["backbone", *HEADS, "rest"]),
        ("rpn", ["backbone", "rpn head", "proposals", "rest"]),
    ],
)
def test_every_stage_of_a_system_takes_its_time(
    system: str, expected: list[str], settings: DetectorSettings
) -> None:
    if system == "sppnet":
        settings = replace(settings, pooling=PoolingSettings(kind="pyramid"))
    detector = build_detector(system, settings)
    batch = detector.transform.batch([PICTURE, PICTURE])
    if needs_proposals(system):
        boxes = torch.tensor([[0.0, 0.0, 40.0, 40.0]])
        batch = replace(batch, proposals=Proposals.pad([boxes, boxes], batch.scales))
    seconds = stage_seconds(detector, [batch], repeats=1)
    assert set(expected) <= set(seconds)
    assert min(seconds.values()) > 0
    assert detector.training  # as it was
