"""A detector that is run faster is the same detector: same results, same checkpoints."""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from rcnn.data import DetectionBatch, ShapesDataset, collate
from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.build import SYSTEMS, build_detector
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposals import ProposalSettings
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.speed import SpeedSettings, align_state, prepare
from rcnn.model.targets import RoISampling
from rcnn.settings import SettingsError, from_plain
from rcnn.training import DetectionDataModule, DetectionModule
from rcnn.training.callbacks import EMA
from rcnn.training.module import fold_deltas, save
from rcnn.training.optim import AdamWCosine, PaperSGD

MakeTrainer = Callable[..., pl.Trainer]
PLAIN = SpeedSettings(channels_last=False, winograd=False)
RESNET = BackboneSettings("resnet18", norm="batch", frozen_stages=0, weights=None)
VARIANTS: dict[str, dict[str, Any]] = {
    "layer4 as box head": {},
    "linear box head": {"backbone": replace(RESNET, box_head="two_mlp", hidden=8, dropout=0.0)},
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
}


def lie_channels_last(module: DetectionModule) -> bool:
    """Return whether all convolutions do; raise if some do and some do not."""
    weights = [one.weight for one in module.modules() if isinstance(one, nn.Conv2d)]
    # Of a 1x1 convolution or a single channel both formats look alike.
    sizeable = [one for one in weights if min(one.shape[1:]) > 1]
    (answer,) = {one.is_contiguous(memory_format=torch.channels_last) for one in sizeable}
    return answer


@pytest.fixture
def batch() -> DetectionBatch:
    images = ShapesDataset(2, size=64)
    return collate([images[0], images[1]], 32)


class TestMemoryFormat:
    @pytest.mark.parametrize("speed", [None, PLAIN])
    def test_it_is_channels_last_unless_switched_off(
        self, speed: SpeedSettings | None, settings: DetectorSettings, batch: DetectionBatch
    ) -> None:
        module = DetectionModule(settings, speed=speed)
        wanted = speed is None
        assert lie_channels_last(module) == wanted
        (features,) = module.detector.backbone(module.detector.images.normalise(batch.images))
        assert features.is_contiguous(memory_format=torch.channels_last) == wanted

    def test_it_stays_when_weights_are_loaded_and_modules_derived(
        self, settings: DetectorSettings, tmp_path: Path
    ) -> None:
        plain = DetectionModule(settings, speed=PLAIN)
        save(plain, tmp_path / "plain.ckpt")
        fast = DetectionModule.load_from_checkpoint(tmp_path / "plain.ckpt")
        for module in (fast, fold_deltas(fast), fast.for_classes(["cat"])):
            assert lie_channels_last(module)
        slow = DetectionModule.load_from_checkpoint(tmp_path / "plain.ckpt", speed=PLAIN)
        assert not lie_channels_last(slow)
        assert not lie_channels_last(slow.for_classes(["cat"]))

    def test_weights_go_bit_by_bit_from_one_format_to_the_other_and_back(
        self, settings: DetectorSettings, tmp_path: Path
    ) -> None:
        first = DetectionModule(settings, speed=PLAIN)
        there, back = tmp_path / "there.ckpt", tmp_path / "back.ckpt"
        save(first, there)
        save(DetectionModule.load_from_checkpoint(there), back)
        last = DetectionModule.load_from_checkpoint(back, speed=PLAIN).state_dict()
        assert list(last) == list(first.state_dict())
        for name, tensor in first.state_dict().items():
            assert torch.equal(last[name], tensor), name
        records = [torch.load(path, weights_only=True)["rcnn"] for path in (there, back)]
        assert records[0] == records[1]

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_losses_gradients_and_detections_stay(
        self, variant: str, settings: DetectorSettings, batch: DetectionBatch
    ) -> None:
        torch.manual_seed(0)
        few = replace(
            settings,
            proposals=ProposalSettings(after_nms_train=8, after_nms_test=4),
            roi_sampling=RoISampling(samples=8),
        )
        # In double precision nothing is left of rounding, which flips maxima and close scores.
        plain = build_detector("faster_rcnn", replace(few, **VARIANTS[variant])).double()
        fast = copy.deepcopy(plain)
        prepare(fast, SpeedSettings())
        losses = []
        for detector in (plain, fast):
            generator = torch.Generator().manual_seed(1)
            losses.append(detector.losses(batch.images, batch.targets, generator))
            losses[-1].total.backward()
        assert_close(losses[1].named, losses[0].named, rtol=1e-7, atol=1e-9)
        for one, two in zip(plain.parameters(), fast.parameters(), strict=True):
            assert two.grad is not None
            assert two.grad.stride() == two.stride()
            assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-8)
        found = [one.eval().detect_batch(batch.images)[0] for one in (plain, fast)]
        for slow, quick in zip(*found, strict=True):
            assert torch.equal(quick.labels, slow.labels)
            assert_close(quick.scores, slow.scores, rtol=1e-7, atol=1e-9)
            assert_close(quick.boxes, slow.boxes, rtol=1e-7, atol=1e-7)

    def test_the_rpns_output_is_reordered_without_a_copy(self, settings: DetectorSettings) -> None:
        detector = FasterRCNN(settings)
        prepare(detector, SpeedSettings())
        made: list[Tensor] = []
        detector.rpn.deltas.register_forward_hook(lambda *call: made.append(call[2]))
        with torch.no_grad():
            (deltas,) = detector.rpn([torch.randn(2, 256, 4, 5)]).deltas
        assert deltas.data_ptr() == made[0].data_ptr()
        assert deltas.is_contiguous()


class TestOptimizer:
    @pytest.mark.parametrize("recipe", [AdamWCosine(0.1, warmup_steps=0), PaperSGD(0.1)])
    @pytest.mark.parametrize("backwards", [False, True])
    def test_a_state_of_another_format_moves_each_weight_by_its_own_past(
        self, recipe: Any, backwards: bool
    ) -> None:
        formats = [torch.contiguous_format, torch.channels_last][:: -1 if backwards else 1]
        torch.manual_seed(0)
        one = nn.Conv2d(4, 5, 3).to(memory_format=formats[0])
        pixels = torch.randn(2, 4, 8, 8)

        def learn(layer: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad()
            layer(pixels).square().sum().backward()
            optimizer.step()

        first, _ = recipe(one, total_steps=10, images_per_step=2)
        learn(one, first)
        other = copy.deepcopy(one).to(memory_format=formats[1])
        second, _ = recipe(other, total_steps=10, images_per_step=2)
        second.register_load_state_dict_post_hook(align_state)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        learn(one, first)
        learn(other, second)
        assert other.weight.stride() != one.weight.stride()
        assert_close(other.weight, one.weight)

    def test_a_run_goes_on_in_another_format(
        self,
        settings: DetectorSettings,
        data: DetectionDataModule,
        trainer: MakeTrainer,
        tmp_path: Path,
    ) -> None:
        def run(epochs: int, speed: SpeedSettings, checkpoint: Path | None = None) -> pl.Trainer:
            torch.manual_seed(0)
            module = DetectionModule(settings, recipe=PaperSGD(0.01), speed=speed)
            made = trainer(epochs, [EMA()])
            made.fit(module, data, ckpt_path=checkpoint)
            return made

        run(1, PLAIN).save_checkpoint(tmp_path / "half.ckpt")
        ends = [run(2, speed, tmp_path / "half.ckpt") for speed in (PLAIN, SpeedSettings())]
        slow, fast = (end.lightning_module.state_dict() for end in ends)
        for name, tensor in slow.items():
            assert_close(fast[name], tensor, rtol=1e-3, atol=1e-3, msg=name)


def answer(*arguments: str) -> Any:
    """Ask ``compiled.py``; the last line is its answer, Lightning talks before it."""
    script = Path(__file__).with_name("compiled.py")
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


class TestCompilation:
    def test_nothing_is_compiled_unless_asked_for(self, module: DetectionModule) -> None:
        assert not any(one._compiled_call_impl for one in module.modules())

    @pytest.mark.parametrize("system", SYSTEMS)
    def test_the_static_parts_of_a_system_are_compiled_and_nothing_else(
        self, system: str, settings: DetectorSettings
    ) -> None:
        if system == "sppnet":
            linear = VARIANTS["linear box head"]["backbone"]
            settings = replace(settings, backbone=linear, pooling=PoolingSettings("pyramid"))
        with torch.device("meta"):
            module = DetectionModule(settings, system=system, speed=SpeedSettings(compile=True))
            plain = DetectionModule(settings, system=system)
        compiled = {name for name, one in module.named_modules() if one._compiled_call_impl}
        second = (
            set()
            if system == "rpn"
            else {"detector.roi_heads.box_head", "detector.roi_heads.box_predictor"}
        )
        first = {"detector.rpn"} if system in ("rpn", "faster_rcnn") else set()
        assert compiled == {"detector.backbone"} | first | second
        assert list(module.state_dict()) == list(plain.state_dict())

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("backbone", "most"),
        [("resnet18", 4), ("vgg16", 4), ("resnet50_fpn", 7), ("mobilenet_v3_large_fpn", 7)],
    )
    def test_the_size_of_a_minibatch_compiles_little_anew(self, backbone: str, most: int) -> None:
        """A part on RoIs has a graph for learning and one for detecting, whatever their number.

        A part on images has these again for single images, which makes four, and each of them may
        be made again where sides of a level that were equal (a coarse level of 3 x 3 cells) are no
        longer so.
        """
        counts = list(answer("graphs", backbone).values())
        assert (
            [one["box_head"] for one in counts]
            == [one["box_predictor"] for one in counts]
            == [1, 1, 2, 2]
        )
        assert max(counts[-1]["backbone"], counts[-1]["rpn"]) <= most

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


class TestSettings:
    @pytest.mark.parametrize(
        ("plain", "message"),
        [
            ({"chanels_last": True}, r"Unknown key 'speed\.chanels_last', did you mean 'channels_"),
            ({"compile": "yes"}, r"speed\.compile='yes' is not possible: it must be true or false"),
            ({"matmul": "tf32"}, r"speed\.matmul='tf32'.*'highest', 'high', 'medium'"),
        ],
    )
    def test_a_mistake_is_named(self, plain: dict[str, Any], message: str) -> None:
        with pytest.raises(SettingsError, match=message):
            from_plain(SpeedSettings, plain, "speed")
