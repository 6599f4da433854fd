"""Settings of a backbone, and what may be frozen in it."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops.misc import FrozenBatchNorm2d

from rcnn.model.backbones import (
    Backbone,
    BackboneSettings,
    TwoMLPHead,
    build_network,
)
from rcnn.model.backbones.backbone import freeze_norms
from rcnn.settings import SettingsError, from_plain, to_plain


def test_backbone_pools_from_one_to_all_of_its_levels() -> None:
    assert Backbone(strides=(8, 16), channels=4, roi_levels=2).roi_strides == (8, 16)
    for roi_levels in (0, 3):
        with pytest.raises(ValueError, match=f"roi_levels={roi_levels} is not possible"):
            Backbone(strides=(8, 16), channels=4, roi_levels=roi_levels)


class NormedBackbone(Backbone):
    def __init__(self) -> None:
        super().__init__(strides=(2,), channels=4, roi_levels=1)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.BatchNorm2d(4), nn.Dropout())

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return [self.layers(pixels)]


def test_a_frozen_backbone_stays_in_evaluation_whatever_the_detector_does() -> None:
    detector = nn.Sequential(NormedBackbone(), nn.Conv2d(4, 4, 1))
    for frozen in (False, True):
        for mode in (True, False, True):
            detector.train(mode)
            assert detector[1].training == mode
            in_training = {module.training for module in detector[0].modules()}
            assert in_training == {mode and not frozen}
        detector[0].freeze()


def test_a_frozen_backbone_neither_learns_nor_counts_nor_drops() -> None:
    backbone = NormedBackbone()
    backbone.freeze()
    backbone.train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    pixels = torch.rand(2, 3, 8, 8)
    (first,), (second,) = backbone(pixels), backbone(pixels)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("efficientnet_lite", "did you mean 'efficientnet_lite0'"),
        ("xx", r"this name\. Shipped are vgg16, "),
        *((name, "no backbone has this name") for name in ("project.", ".build", "a..b", "a.3b")),
        ("../resnet18", "no backbone has this name"),
    ],
)
def test_name_of_no_backbone_is_answered_with_those_there_are(name: str, answer: str) -> None:
    with pytest.raises(SettingsError, match=rf"name='{name}'.*{answer}"):
        BackboneSettings(name=name)


@pytest.mark.parametrize("name", ["project.models.build", "timm/convnext_tiny"])
def test_dotted_path_and_timms_models_pass_for_a_name(name: str) -> None:
    assert BackboneSettings(name=name).name == name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("norm", "group"),
        ("frozen_stages", -1),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("weights", ""),
        ("hidden", 0),
        ("fpn_channels", 0),
        ("norm_eps", -1e-5),
        ("norm_eps", float("inf")),
        ("box_head", "layer4"),
    ],
)
def test_value_out_of_range_is_an_error_that_names_key_and_value(key: str, value: object) -> None:
    with pytest.raises(SettingsError, match=rf"backbone\.{key}={value!r}"):
        from_plain(BackboneSettings, {key: value}, where="backbone")


@pytest.mark.parametrize("ranks", [None, (1024, 0)])
def test_settings_survive_their_plain_form(ranks: tuple[int, int] | None) -> None:
    settings = BackboneSettings("vgg16", norm="batch", weights=None, dropout=0.0, ranks=ranks)
    assert from_plain(BackboneSettings, to_plain(settings)) == settings


@pytest.mark.parametrize("ranks", [(0, 0), (-1, 4)])
def test_ranks_leave_at_most_one_layer_whole(ranks: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=r"^ranks"):
        BackboneSettings(name="vgg16", ranks=ranks)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_a_box_head_that_convolves_has_no_ranks(name: str) -> None:
    with pytest.raises(SettingsError, match=r"ranks=.*only with backbone\.box_head=two_mlp"):
        BackboneSettings(name=name, ranks=(8, 8))
    assert BackboneSettings(name=name, box_head="two_mlp", ranks=(8, 8)).ranks == (8, 8)


@pytest.mark.parametrize(
    ("name", "stages", "builder"),
    [
        ("resnet18", 5, partial(resnet_fpn_backbone, norm_layer=nn.BatchNorm2d)),
        ("mobilenet_v3_large", 6, partial(mobilenet_backbone, fpn=True)),
    ],
)
def test_pyramids_learn_what_torchvision_lets_learn(
    name: str, stages: int, builder: Callable[..., nn.Module]
) -> None:
    for frozen in range(stages + 1):
        with torch.device("meta"):
            theirs = builder(backbone_name=name, weights=None, trainable_layers=stages - frozen)
        norm: Literal["batch", "frozen"] = "batch" if name == "resnet18" else "frozen"
        assert _learning(_backbone(f"{name}_fpn", frozen, norm)) == _learning(theirs)


def test_two_frozen_stages_of_vgg16_are_conv1_and_conv2() -> None:
    backbone = _backbone("vgg16", frozen_stages=2, norm="auto")
    frozen = [name for name, value in backbone.named_parameters() if not value.requires_grad]
    assert frozen == [f"features.{i}.{kind}" for i in (0, 2, 5, 7) for kind in ("weight", "bias")]


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_fifth_stage_of_a_c4_network_is_its_box_head(name: str) -> None:
    with torch.device("meta"):
        four = build_network(BackboneSettings(name, frozen_stages=4))
        five = build_network(BackboneSettings(name, frozen_stages=5))
    assert not _learning(four.backbone)
    assert _learning(four.box_head)
    assert not _learning(five.box_head)


@pytest.mark.parametrize("frozen", range(6))
def test_stages_of_efficientnet_begin_where_the_size_halves(frozen: int) -> None:
    backbone = _backbone("efficientnet_lite0_fpn", frozen, "frozen")
    layers = [int(key.split(".")[1]) for key in _learning(backbone) if key.startswith("body.")]
    assert min(layers, default=None) == (0, 2, 4, 6, 12, None)[frozen]


@pytest.mark.parametrize(
    ("name", "own_eps"),
    [
        *((name, 1e-5) for name in ("vgg16_bn", "resnet18", "resnet18_fpn")),
        *(("mobilenet_v3_large_fpn", 1e-5), ("efficientnet_lite0", 1e-3)),
    ],
)
def test_norm_setting_decides_about_every_norm_and_its_epsilon(name: str, own_eps: float) -> None:
    kinds: dict[Literal["auto", "batch", "frozen"], type[nn.Module]] = {
        "auto": nn.BatchNorm2d,
        "batch": nn.BatchNorm2d,
        "frozen": FrozenBatchNorm2d,
    }
    for (norm, kind), eps in itertools.product(kinds.items(), (None, 0.25)):
        settings = BackboneSettings(name=name, norm=norm, frozen_stages=0, norm_eps=eps)
        with torch.device("meta"):
            network = build_network(settings)
        parts = [*network.backbone.modules(), *network.box_head.modules()]
        norms = [part for part in parts if isinstance(part, nn.BatchNorm2d | FrozenBatchNorm2d)]
        assert norms
        assert all(type(part) is kind and part.eps == (eps or own_eps) for part in norms)


def test_frozen_stage_counts_no_statistics_while_later_stages_do(pixels: Tensor) -> None:
    backbone = build_network(BackboneSettings(norm="batch", frozen_stages=2)).backbone.train()
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    backbone(pixels)
    moved = {
        name for name, value in backbone.named_buffers() if not torch.equal(value, before[name])
    }
    assert moved
    assert all(name.startswith(("layer2.", "layer3.")) for name in moved)


def test_frozen_norms_are_the_same_in_training_and_inference(pixels: Tensor) -> None:
    backbone = build_network(BackboneSettings(norm="frozen")).backbone
    torch.testing.assert_close(backbone.train()(pixels), backbone.eval()(pixels))


def test_freezing_keeps_what_the_norm_computes(generator: torch.Generator) -> None:
    norm = nn.BatchNorm2d(3, eps=0.1).eval()
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 2.0, generator=generator)
    features = torch.rand(2, 3, 4, 5, generator=generator)
    frozen = freeze_norms(nn.Sequential(nn.Identity(), nn.Sequential(norm)))
    assert not list(frozen.parameters())
    torch.testing.assert_close(frozen(features), norm(features).detach())


def _backbone(name: str, frozen_stages: int, norm: Literal["auto", "batch", "frozen"]) -> nn.Module:
    with torch.device("meta"):
        settings = BackboneSettings(name=name, frozen_stages=frozen_stages, norm=norm)
        return build_network(settings).backbone


def _learning(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def test_two_mlp_head_is_two_layers_with_relu() -> None:
    box_head = TwoMLPHead(in_channels=1, cells=1, hidden=1, dropout=0.0)
    for layer, weight, bias in ((box_head.fc6, 2.0, 1.0), (box_head.fc7, -1.0, 5.0)):
        nn.init.constant_(layer.get_parameter("weight"), weight)
        nn.init.constant_(layer.get_parameter("bias"), bias)
    pooled = torch.tensor([1.0, 10.0, -3.0]).reshape(3, 1, 1, 1)
    # 1 -> 3 -> 2; 10 -> 21 -> -16, cut to 0; -3 -> -5, cut to 0 -> 5
    torch.testing.assert_close(box_head(pooled), torch.tensor([[2.0], [0.0], [5.0]]))


def test_dropout_acts_in_training_alone() -> None:
    box_head = TwoMLPHead(in_channels=2, cells=4, hidden=64, dropout=0.5)
    pooled = torch.rand(3, 2, 2, 2)
    nn.init.ones_(box_head.fc7.get_parameter("bias"))
    trained, evaluated = box_head.train()(pooled), box_head.eval()(pooled)
    assert (trained == 0).any(dim=1).all()
    assert not (evaluated == 0).all(dim=0).any()
    torch.testing.assert_close(box_head(pooled), evaluated)


def test_dropout_follows_both_layers() -> None:
    box_head = TwoMLPHead(in_channels=1, cells=1, hidden=64, dropout=0.5).train()
    for layer in (box_head.fc6, box_head.fc7):
        nn.init.zeros_(layer.get_parameter("weight"))
        nn.init.zeros_(layer.get_parameter("bias"))
    nn.init.ones_(box_head.fc6.get_parameter("bias"))
    nn.init.eye_(box_head.fc7.get_parameter("weight"))
    # a unit that survives is doubled, twice
    assert set(box_head(torch.ones(3, 1, 1, 1)).flatten().tolist()) == {0.0, 4.0}


@pytest.mark.parametrize("rois", [0, 1, 3])
def test_two_mlp_head_gives_one_vector_per_roi(rois: int) -> None:
    box_head = TwoMLPHead(in_channels=3, cells=4, hidden=5, dropout=0.5)
    assert box_head(torch.rand(rois, 3, 2, 2)).shape == (rois, 5)
    assert box_head.channels == 5


def factorised(ranks: tuple[int, int]) -> TwoMLPHead:
    return TwoMLPHead(in_channels=3, cells=4, hidden=8, dropout=0.0, ranks=ranks)


def test_a_layer_with_a_rank_is_two_layers_of_which_the_second_has_the_bias() -> None:
    box_head = factorised((5, 0))
    shapes = {name: tuple(tensor.shape) for name, tensor in box_head.state_dict().items()}
    assert shapes == {
        "fc6.first.weight": (5, 12),
        "fc6.second.weight": (8, 5),
        "fc6.second.bias": (8,),
        "fc7.weight": (8, 8),
        "fc7.bias": (8,),
    }


def test_a_factorised_layer_computes_the_product_of_its_two() -> None:
    box_head, whole = factorised((5, 2)), factorised((0, 0))
    for name in ("fc6", "fc7"):
        thin, layer = getattr(box_head, name), getattr(whole, name)
        layer.weight.data = thin.second.weight.data @ thin.first.weight.data
        layer.bias.data = thin.second.bias.data
    pooled = torch.rand(3, 3, 2, 2)
    torch.testing.assert_close(box_head(pooled), whole(pooled))


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ((9, 2), r"ranks=\(9, 2\) .*fc6 \(12 to 8\) has rank 8 at most"),
        ((2, 9), r"ranks=\(2, 9\) .*fc7 \(8 to 8\) has rank 8 at most"),
        ((-1, 2), r"ranks=\(-1, 2\) .*fc6"),
    ],
)
def test_a_rank_that_no_such_matrix_has_is_an_error_that_names_the_layer(
    ranks: tuple[int, int], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        factorised(ranks)
