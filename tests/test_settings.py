"""Settings to plain values and back, and what is said about those that cannot be."""

import dataclasses
import json
from typing import Any, Literal

import pytest
from pydantic import PositiveFloat

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.settings import (
    Fraction,
    FractionBelowOne,
    PositiveFraction,
    SettingsError,
    field_types,
    from_plain,
    nearest,
    require,
    settings,
    to_plain,
)


@settings
class Wheel:
    radius: PositiveFloat = 0.3
    spokes: int = 32
    tube: Literal["latex", "butyl"] | None = None


@settings
class Bicycle:
    owner: str
    brakes: bool = True
    wheels: tuple[Wheel, ...] = (Wheel(), Wheel())
    front: Wheel = Wheel()
    gears: tuple[tuple[int, ...], ...] | None = None
    size: tuple[int, float] = (54, 1.0)
    bell: str | None = None
    spare: Wheel | None = None

    def __post_init__(self) -> None:
        fits = self.spare is None or self.spare.radius == self.front.radius
        require(fits, "spare", self.spare, "its radius should be that of front")


@settings
class Ranges:
    any_fraction: Fraction = 0.0
    some: PositiveFraction = 1.0
    not_all: FractionBelowOne = 0.0


def _error(values: Any, cls: type = Bicycle, where: str = "") -> str:
    with pytest.raises(SettingsError) as caught:
        from_plain(cls, values, where)
    return str(caught.value)


def _bicycle(**values: Any) -> str:
    return _error({"owner": "Ada", **values})


@pytest.mark.parametrize(
    "value",
    [
        Bicycle("Ada"),
        Bicycle(
            owner="Ada",
            brakes=False,
            wheels=(Wheel(0.5, 0, "latex"), Wheel(), Wheel()),
            front=Wheel(tube="butyl"),
            gears=((50, 34), (11, 13, 15), ()),
            size=(60, 2.5),
            bell="ding",
            spare=Wheel(spokes=9),
        ),
        DetectorSettings(class_names=("cat",)),
        DetectorSettings(
            class_names=("cat", "dog"),
            images=ImageSettings(channels="bgr", mean=(0.4, 0.45, 0.48), std=(1.0, 1.0, 1.0)),
            backbone=BackboneSettings(name="somebody.elses.network", weights=None),
            anchors=AnchorSettings(sizes=((32.0, 48.0), (64.0, 96.0)), rounding="caffe"),
            rpn=RPNSettings(channels=None),
            roi_sampling=RoISampling(samples_per="image", pad_with="background"),
        ),
    ],
)
def test_settings_survive_json(value: Any) -> None:
    stored = json.loads(json.dumps(to_plain(value)))
    assert from_plain(type(value), stored) == value


def test_plain_form_is_numbers_texts_lists_and_dictionaries() -> None:
    assert to_plain(Bicycle("Ada", gears=((1, 2), (3,)))) == {
        "owner": "Ada",
        "brakes": True,
        "wheels": [{"radius": 0.3, "spokes": 32, "tube": None}] * 2,
        "front": {"radius": 0.3, "spokes": 32, "tube": None},
        "gears": [[1, 2], [3]],
        "size": [54, 1.0],
        "bell": None,
        "spare": None,
    }


def test_settings_cannot_be_changed_but_replaced_and_compared() -> None:
    wheel = Wheel(spokes=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        wheel.spokes = 4  # type: ignore[misc]
    assert dataclasses.replace(wheel, radius=1.0) == Wheel(1.0, 3) != wheel
    assert len({wheel, Wheel(spokes=3)}) == 1
    with pytest.raises(SettingsError, match=r"^radius=-1"):
        dataclasses.replace(wheel, radius=-1.0)


def test_missing_keys_take_their_defaults_or_are_named() -> None:
    ours = from_plain(Bicycle, {"owner": "Ada", "front": {"spokes": 3}})
    assert ours == Bicycle("Ada", front=Wheel(spokes=3))
    assert _error({}).startswith("owner is missing")
    assert _error({}, DetectorSettings).startswith("class_names is missing")
    with pytest.raises(SettingsError, match=r"^owner is missing"):
        Bicycle()  # type: ignore[call-arg]


def test_whole_numbers_pass_for_numbers_and_lists_for_tuples_and_nothing_else_does() -> None:
    for bicycle in (
        from_plain(Bicycle, {"owner": "Ada", "front": {"radius": 1}, "size": [54, 2]}),
        Bicycle("Ada", front=Wheel(1), size=[54, 2]),  # type: ignore[arg-type]
    ):
        assert isinstance(bicycle.front.radius, float)
        assert bicycle.size == (54, 2.0)
        assert isinstance(bicycle.size[1], float)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"front": {"radius": "1"}}, "front.radius='1'"),
        ({"front": {"radius": True}}, "front.radius=True"),
        ({"front": {"spokes": 32.0}}, "front.spokes=32.0"),
        ({"front": {"spokes": True}}, "front.spokes=True"),
        ({"brakes": 1}, "brakes=1"),
        ({"brakes": "yes"}, "brakes='yes'"),
        ({"owner": 7}, "owner=7"),
        ({"owner": None}, "owner=None"),
        ({"bell": 3}, "bell=3"),
        ({"size": 5}, "size=5"),
        ({"size": "ab"}, "size='ab'"),
        ({"size": [1, 2.0, 3]}, "size=[1, 2.0, 3]"),
        ({"size": [1]}, "size[1]"),
        ({"gears": [[1], [2, 3, "x"]]}, "gears[1][2]='x'"),
        ({"gears": [3]}, "gears[0]=3"),
        ({"front": {"tube": "wood"}}, "front.tube='wood'"),
        *(({"front": one}, f"front={one!r}") for one in (3, "front", [1, 2], None)),
    ]
    for values, key in wrong:
        assert _bicycle(**values).startswith(f"{key} is ")


def test_what_is_allowed_is_said_in_plain_words() -> None:
    assert "'latex' or 'butyl'" in _bicycle(front={"tube": "wood"})
    assert "hold keys and values" in _bicycle(front=3)
    assert "an integer" in _bicycle(front={"spokes": "x"})
    assert "a list" in _bicycle(gears=3)
    assert "at least 1 item" in _error({"class_names": []}, DetectorSettings)
    with pytest.raises(SettingsError, match="a Wheel"):
        Bicycle("Ada", front=3)  # type: ignore[arg-type]


def test_an_unknown_key_names_the_nearest_and_all_known() -> None:
    message = _bicycle(brake=True)
    assert message.startswith("Unknown key 'brake', did you mean 'brakes'? Known keys: bell, ")
    assert _bicycle(qqq=1).startswith("Unknown key 'qqq'. Known keys: bell, ")
    assert "'3'" in _error({"owner": "Ada", 3: 4})
    for values, key in (
        ({"front": {"spoke": 3}}, "front.spoke"),
        ({"wheels": [{}, {"spoke": 3}]}, "wheels[1].spoke"),
        ({"spare": {"spoke": 3}}, "spare.spoke"),
    ):
        message = _bicycle(**values)
        assert message.startswith(f"Unknown key '{key}', did you mean 'spokes'? Known keys: radius")
    with pytest.raises(SettingsError, match="'spoke', did you mean 'spokes'"):
        Wheel(spoke=3)  # type: ignore[call-arg]


def test_a_value_out_of_range_names_the_full_key() -> None:
    assert _bicycle(front={"radius": -1.0}).startswith("front.radius=-1.0 is not possible: ")
    assert _bicycle(wheels=[{"radius": 0.0}]).startswith("wheels[0].radius=0.0 ")
    assert _error({"channels": 0}, RPNSettings, "model.rpn").startswith("model.rpn.channels=0 ")
    assert _error({"radius": 0.0}, Wheel, "wheel_").startswith("wheel_radius=0.0 ")
    for number in (float("nan"), float("inf")):
        assert _error({"radius": number}, Wheel).startswith(f"radius={number} ")


def test_a_check_between_two_fields_names_the_full_key() -> None:
    assert _bicycle(spare={"radius": 1.0}).startswith("spare=Wheel(radius=1.0")
    nested = {"class_names": ["cat"], "roi_sampling": {"background_low": 0.5}}
    assert _error(nested, DetectorSettings).startswith("roi_sampling.background_low=0.5 ")
    with pytest.raises(SettingsError, match=r"^background_low=0\.5 "):
        RoISampling(background_low=0.5)


@pytest.mark.parametrize(
    ("key", "allowed", "refused"),
    [
        ("any_fraction", (0, 0.5, 1), (-0.1, 1.1)),
        ("some", (1e-9, 1), (0, 1.1)),
        ("not_all", (0, 0.99), (-0.1, 1)),
    ],
)
def test_the_ends_of_a_range(key: str, allowed: Any, refused: Any) -> None:
    for number in allowed:
        assert to_plain(from_plain(Ranges, {key: number}))[key] == number
    for number in refused:
        assert _error({key: number}, Ranges).startswith(f"{key}={number} ")


def test_values_that_are_no_mapping_are_refused() -> None:
    for values in (3, "front", [1, 2], None):
        assert _error(values, Wheel, "wheel").startswith("wheel must hold keys and values, not ")


def test_nearest_word() -> None:
    assert nearest("resnet8", ["resnet18", "vgg16"]) == ", did you mean 'resnet18'?"
    assert nearest("something", ["resnet18", "vgg16"]) == "."


def test_types_of_the_fields() -> None:
    kinds = field_types(Wheel)
    assert kinds["radius"] is float
    assert list(kinds) == ["radius", "spokes", "tube"]


def test_a_positional_argument_is_named_in_the_error() -> None:
    with pytest.raises(SettingsError, match=r"shorter_side=0"):
        ImageSettings(0)
