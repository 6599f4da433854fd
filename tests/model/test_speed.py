"""A detector that is run faster is the same detector: same results, same state."""

import copy
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.kernels.conv import FastConv2d, FoldedNorm2d, fits_winograd
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import Backbone, BackboneSettings, BoxHead, SplitNetwork
from rcnn.model.build import SYSTEMS, build_detector
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings, align_state, prepare
from rcnn.model.targets import RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError, from_plain
from tests.model.inputs import TINY, A, B, C, noise_of, targets_of

PLAIN = SpeedSettings(channels_last=False, winograd=False, fold_norms=False)
RESNET = BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None)
SETTINGS = DetectorSettings(
    ("circle", "square", "triangle"),
    images=ImageSettings(shorter_side=64, longer_side=96),
    backbone=RESNET,
    anchors=AnchorSettings(scales=(1.0, 2.0)),
    proposals=ProposalSettings(after_nms_train=8, after_nms_test=4),
    roi_sampling=RoISampling(samples=8),
)
TWO_MLP = replace(RESNET, box_head="two_mlp", hidden=8, dropout=0.0)
VARIANTS: dict[str, dict[str, Any]] = {
    "layer4 as box head": {},
    "linear box head": {"backbone": TWO_MLP},
    "roi_pool": {"pooling": PoolingSettings("roi_pool")},
    "crop": {"pooling": PoolingSettings("crop")},
    "adaptive samples": {"pooling": PoolingSettings(sampling_ratio=0)},
    "pyramid": {
        "backbone": replace(RESNET, name="resnet18_fpn", hidden=8),
        "anchors": AnchorSettings((8.0,)),
    },
    "mobilenet": {
        "backbone": replace(RESNET, name="mobilenet_v3_large_fpn", hidden=8),
        "anchors": AnchorSettings((1.0,)),
    },
    "efficientnet": {"backbone": replace(RESNET, name="efficientnet_lite0")},
}
NAMES = [
    *("vgg16", "vgg16_bn", "resnet18", "resnet50", "resnet18_fpn", "mobilenet_v3_large_fpn"),
    *("efficientnet_lite0", "efficientnet_lite0_fpn"),
]


def vary_norms(detector: nn.Module) -> None:
    """Give each fixed norm numbers of its own, so that none can take the place of another."""
    generator = torch.Generator().manual_seed(0)
    for module in detector.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for buffer in module.buffers():
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)


def count(detector: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(one, kind) for one in detector.modules())


class TestFastLayers:
    @pytest.mark.parametrize("name", NAMES)
    def test_all_layers_that_fit_are_replaced_and_the_state_stays(self, name: str) -> None:
        backbone = replace(RESNET, name=name, hidden=8, norm="frozen")
        with torch.device("meta"):
            detector = FasterRCNN(replace(SETTINGS, backbone=backbone))
        before = dict(detector.state_dict(keep_vars=True))
        layers = [one for one in detector.modules() if isinstance(one, nn.Conv2d)]
        fitting, fixed = sum(map(fits_winograd, layers)), count(detector, FrozenBatchNorm2d)
        assert fitting > 3 or name.startswith(("mobilenet", "efficientnet"))
        prepare(detector, PLAIN)
        assert count(detector, FastConv2d) == count(detector, FoldedNorm2d) == 0
        for _ in range(2):  # twice is once
            prepare(detector, SpeedSettings(channels_last=False))
            fast = [one for one in detector.modules() if isinstance(one, FastConv2d)]
            assert sum(one.winograd for one in fast) == fitting
            assert count(detector, FoldedNorm2d) == fixed
        after = detector.state_dict(keep_vars=True)
        assert list(after) == list(before)
        assert all(after[key] is value for key, value in before.items())

    @pytest.mark.parametrize("name", NAMES)
    def test_folded_norms_change_nothing(self, name: str) -> None:
        backbone = replace(RESNET, name=name, hidden=8, norm="frozen")
        detector = FasterRCNN(replace(SETTINGS, backbone=backbone)).double().eval()
        vary_norms(detector)
        fast = copy.deepcopy(detector)
        prepare(fast, SpeedSettings(winograd=False))
        pixels = torch.rand(1, 3, 64, 64, dtype=torch.float64)
        assert_close(fast.backbone(pixels), detector.backbone(pixels))
        pooled = torch.rand(2, detector.backbone.channels, 7, 7, dtype=torch.float64)
        assert_close(fast.roi_heads.box_head(pooled), detector.roi_heads.box_head(pooled))


class NormBeforeConv(Backbone):
    """A backbone of the user's own: its norm comes after a layer by name, but runs before it."""

    def __init__(self) -> None:
        super().__init__(strides=(16,), channels=128, roi_levels=1)
        self.stem = nn.Conv2d(3, 128, kernel_size=16, stride=16)
        self.relu = nn.ReLU()
        self.conv = nn.Conv2d(128, 128, kernel_size=3, padding=1)
        self.norm = FrozenBatchNorm2d(128)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.conv(self.norm(self.relu(self.stem(pixels))))]


class MeanHead(BoxHead):
    def __init__(self) -> None:
        super().__init__(channels=128)

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled.mean(dim=(2, 3))


def build_norm_before_conv(settings: BackboneSettings, cells: int) -> SplitNetwork:
    return SplitNetwork(NormBeforeConv(), MeanHead())


def test_norms_of_a_users_own_backbone_are_never_folded() -> None:
    """Only of the shipped backbones is it known which norm follows which convolution."""
    backbone = BackboneSettings(name=f"{__name__}.build_norm_before_conv", weights=None)
    detector = FasterRCNN(replace(TINY, backbone=backbone)).double().eval()
    vary_norms(detector)
    fast = copy.deepcopy(detector)
    prepare(fast, SpeedSettings())
    assert isinstance(fast.get_submodule("backbone.conv"), FastConv2d)  # it is fast all the same
    pixels = torch.rand(8, 3, 64, 96, dtype=torch.float64)
    assert_close(fast.backbone(pixels), detector.backbone(pixels))


class TestMemoryFormat:
    @pytest.mark.parametrize("wanted", [True, False])
    def test_weights_and_features_are_channels_last_if_wanted(self, wanted: bool) -> None:
        detector = FasterRCNN(SETTINGS)
        prepare(detector, SpeedSettings(channels_last=wanted))
        # Of a 1x1 convolution or a single channel both formats look alike.
        layers = [one for one in detector.modules() if isinstance(one, nn.Conv2d)]
        weights = [one.weight for one in layers if min(one.weight.shape[1:]) > 1]
        features = detector.extract_features(noise_of((64, 96)))
        for tensor in (*weights, *features):
            assert tensor.is_contiguous(memory_format=torch.channels_last) == wanted

    def test_weights_that_are_loaded_later_take_the_format_bit_by_bit(self) -> None:
        plain, fast = FasterRCNN(SETTINGS), FasterRCNN(SETTINGS)
        prepare(fast, SpeedSettings())
        fast.load_state_dict(plain.state_dict())
        assert fast.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
        assert list(fast.state_dict()) == list(plain.state_dict())
        for name, tensor in plain.state_dict().items():
            assert torch.equal(fast.state_dict()[name], tensor), name

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_losses_gradients_and_detections_stay(self, variant: str) -> None:
        torch.manual_seed(0)
        # In double precision nothing is left of rounding, which flips maxima and close scores.
        plain = build_detector("faster_rcnn", replace(SETTINGS, **VARIANTS[variant])).double()
        fast = copy.deepcopy(plain)
        prepare(fast, SpeedSettings())
        batch, targets, losses = noise_of((64, 96), (64, 80)), targets_of([A, B], [C]), []
        for detector in (plain, fast):
            generator = torch.Generator().manual_seed(1)
            losses.append(detector.losses(batch, targets, generator))
            losses[-1].total.backward()
        assert_close(losses[1].named, losses[0].named, rtol=1e-7, atol=1e-9)
        for one, two in zip(plain.parameters(), fast.parameters(), strict=True):
            assert two.grad is not None
            assert two.grad.stride() == two.stride()
            assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-8)
        found = [one.eval().detect_batch(batch)[0] for one in (plain, fast)]
        for slow, quicker in zip(*found, strict=True):
            assert torch.equal(quicker.labels, slow.labels)
            assert_close(quicker.scores, slow.scores, rtol=1e-7, atol=1e-9)
            assert_close(quicker.boxes, slow.boxes, rtol=1e-7, atol=1e-7)

    def test_the_output_of_the_rpn_is_reordered_without_a_copy(self) -> None:
        detector = FasterRCNN(SETTINGS)
        prepare(detector, SpeedSettings())
        made: list[Tensor] = []
        detector.rpn.head.bbox_pred.register_forward_hook(lambda *call: made.append(call[2]))
        with torch.no_grad():
            _, (deltas,) = detector.rpn.head([torch.randn(2, 256, 4, 5)])
        assert deltas.data_ptr() == made[0].data_ptr()
        assert deltas.is_contiguous()

    @pytest.mark.parametrize("kind", ["adamw", "sgd"])
    @pytest.mark.parametrize("backwards", [False, True])
    def test_a_state_of_another_format_moves_each_weight_by_its_own_past(
        self, kind: str, backwards: bool
    ) -> None:
        formats = [torch.contiguous_format, torch.channels_last][:: -1 if backwards else 1]
        torch.manual_seed(0)
        one = nn.Conv2d(4, 5, 3).to(memory_format=formats[0])
        pixels = torch.randn(2, 4, 8, 8)

        def optimizer(layer: nn.Conv2d) -> torch.optim.Optimizer:
            if kind == "adamw":
                return torch.optim.AdamW(layer.parameters(), lr=0.1, fused=True)
            return torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, fused=True)

        def step(layer: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad()
            layer(pixels).square().sum().backward()
            optimizer.step()

        first = optimizer(one)
        step(one, first)
        other = copy.deepcopy(one).to(memory_format=formats[1])
        second = optimizer(other)
        second.register_load_state_dict_post_hook(align_state)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        step(one, first)
        step(other, second)
        assert other.weight.stride() != one.weight.stride()
        assert_close(other.weight, one.weight)


def answer(*arguments: str) -> Any:
    """Return what a function of ``compiled.py`` does: its last line, after Lightning's own."""
    script = Path(__file__).with_name("compiled.py")
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


class TestCompilation:
    @pytest.mark.parametrize("system", SYSTEMS)
    def test_the_static_parts_of_a_system_are_compiled_if_asked_for_and_nothing_else(
        self, system: str
    ) -> None:
        settings = SETTINGS
        if system == "sppnet":
            settings = replace(settings, backbone=TWO_MLP, pooling=PoolingSettings("pyramid"))
        with torch.device("meta"):
            plain, detector = build_detector(system, settings), build_detector(system, settings)
        prepare(plain, SpeedSettings())
        assert not any(one._compiled_call_impl for one in plain.modules())
        prepare(detector, SpeedSettings(compile=True))
        compiled = {name for name, one in detector.named_modules() if one._compiled_call_impl}
        heads = set() if system == "rpn" else {"roi_heads.box_head", "roi_heads.box_predictor"}
        rpn = {"rpn.head"} if system in ("rpn", "faster_rcnn") else set()
        assert compiled == rpn | heads | {"backbone"}
        assert list(detector.state_dict()) == list(plain.state_dict())

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("backbone", "most"),
        [("resnet18", 4), ("vgg16", 4), ("resnet50_fpn", 7), ("mobilenet_v3_large_fpn", 7)],
    )
    def test_the_size_of_a_minibatch_compiles_little_again(self, backbone: str, most: int) -> None:
        """A part on RoIs has a graph for training and one for detecting, whatever their number.

        A part on images has these again for single images, which makes four, and each of them may
        be made again where sides of a level that were equal (a coarse level of 3 x 3 cells) are no
        longer so.
        """
        counts = list(answer("graphs", backbone).values())
        for part in ("box_head", "box_predictor"):
            assert [one[part] for one in counts] == [1, 1, 2, 2]
        assert max(counts[-1]["backbone"], counts[-1]["rpn_head"]) <= most

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
    def test_a_compiled_detector_has_the_same_losses(self) -> None:
        losses = answer("losses", "resnet18")
        for plain, compiled in zip(losses["plain"], losses["compiled"], strict=True):
            assert compiled == pytest.approx(plain, rel=1e-4, abs=1e-4)

    @pytest.mark.slow
    def test_a_run_of_two_processes_that_is_stopped_and_averaged_learns_the_same(
        self, tmp_path: Path
    ) -> None:
        plain, compiled = (
            torch.load(answer("train", str(tmp_path), how)) for how in ("plain", "compiled")
        )
        assert list(compiled) == list(plain)
        for name, tensor in plain.items():
            assert_close(compiled[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("plain", "key"),
    [
        ({"chanels_last": True}, r"'speed\.chanels_last', did you mean 'channels_last'"),
        ({"compile": "yes"}, r"speed\.compile='yes'"),
        ({"matmul": "tf32"}, r"speed\.matmul='tf32'.*'highest', 'high' or 'medium'"),
    ],
)
def test_a_mistake_in_the_settings_is_named(plain: dict[str, Any], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        from_plain(SpeedSettings, plain, "speed")
