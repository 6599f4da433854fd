import pytest

from rcnn.model.backbones.backbone import SHIPPED, BackboneSettings
from rcnn.settings import SettingsError, from_plain, to_plain


def test_defaults_are_possible_for_every_shipped_name() -> None:
    assert [BackboneSettings(name=name).name for name in SHIPPED] == list(SHIPPED)


def test_misspelt_name_is_answered_with_the_nearest_shipped_one() -> None:
    with pytest.raises(SettingsError, match=r"name='resnet81'.*did you mean 'resnet18'"):
        BackboneSettings(name="resnet81")


def test_name_unlike_any_is_answered_with_the_list() -> None:
    with pytest.raises(SettingsError, match=r"no backbone has this name\. Shipped are vgg16, "):
        BackboneSettings(name="xx")


def test_dotted_path_passes_for_a_name() -> None:
    assert BackboneSettings(name="project.models.build").name == "project.models.build"


@pytest.mark.parametrize("name", ["project.", ".build", "a..b", "a.3b", "../resnet18"])
def test_what_is_no_dotted_path_is_no_name(name: str) -> None:
    with pytest.raises(SettingsError, match="name="):
        BackboneSettings(name=name)


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


def test_settings_survive_their_plain_form() -> None:
    settings = BackboneSettings(name="vgg16", norm="batch", weights=None, dropout=0.0)
    assert from_plain(BackboneSettings, to_plain(settings)) == settings


def test_ranks_survive_their_plain_form() -> None:
    settings = BackboneSettings(name="vgg16", ranks=(1024, 0))
    assert to_plain(settings)["ranks"] == [1024, 0]
    assert from_plain(BackboneSettings, to_plain(settings)) == settings


@pytest.mark.parametrize("ranks", [(0, 0), (-1, 4)])
def test_ranks_leave_at_most_one_layer_whole(ranks: tuple[int, int]) -> None:
    with pytest.raises(SettingsError, match=r"ranks=.*at least one of them above 0, or null"):
        BackboneSettings(name="vgg16", ranks=ranks)


def test_layer4_has_no_ranks() -> None:
    with pytest.raises(SettingsError, match=r"ranks=.*only with backbone\.box_head=two_mlp"):
        BackboneSettings(name="resnet18", ranks=(8, 8))
    assert BackboneSettings(name="resnet18", box_head="two_mlp", ranks=(8, 8)).ranks == (8, 8)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("vgg16_bn", "vgg16_bn"),
        ("resnet50", "resnet50"),
        ("resnet50_fpn", "resnet50"),
        ("mobilenet_v3_large_fpn", "mobilenet_v3_large"),
        ("project.net_fpn", None),
    ],
)
def test_architecture_is_the_classification_network_inside(
    name: str, architecture: str | None
) -> None:
    assert BackboneSettings(name=name).architecture == architecture
