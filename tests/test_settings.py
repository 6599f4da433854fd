"""Settings to plain values and back, and what is said about those that cannot be."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from rcnn.model.anchors import AnchorSettings
from rcnn.model.backbones import BackboneSettings
from rcnn.model.rpn import RPNSettings
from rcnn.model.settings import DetectorSettings
from rcnn.model.targets import AnchorSampling, RoISampling
from rcnn.model.transform import ImageSettings
from rcnn.settings import SettingsError, field_types, from_plain, nearest, require, to_plain


@dataclass(frozen=True)
class Wheel:
    radius: float = 0.3
    spokes: int = 32
    tube: Literal["latex", "butyl"] | None = None

    def __post_init__(self) -> None:
        require(self.radius > 0, "radius", self.radius, "it is above 0 metres")


@dataclass(frozen=True)
class Bicycle:
    owner: str
    brakes: bool = True
    colour: Literal["red", "blue"] = "red"
    wheels: tuple[Wheel, ...] = (Wheel(), Wheel())
    front: Wheel = field(default_factory=Wheel)
    gears: tuple[tuple[int, ...], ...] | None = None
    size: tuple[int, float] = (54, 1.0)
    bell: str | None = None
    weight: int | None = None


def _error(values: Any, cls: type = Bicycle) -> str:
    with pytest.raises(SettingsError) as caught:
        from_plain(cls, values)
    return str(caught.value)


def _bicycle(**values: Any) -> str:
    return _error({"owner": "Ada", **values})


@pytest.mark.parametrize(
    "settings",
    [
        Bicycle("Ada"),
        Bicycle(
            owner="Ada",
            brakes=False,
            colour="blue",
            wheels=(Wheel(0.5, 0, "latex"), Wheel(), Wheel()),
            front=Wheel(tube="butyl"),
            gears=((50, 34), (11, 13, 15)),
            size=(60, 2.5),
            bell="ding",
            weight=9,
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
def test_settings_survive_json(settings: Any) -> None:
    stored = json.loads(json.dumps(to_plain(settings)))
    assert from_plain(type(settings), stored) == settings


def test_plain_form_is_numbers_texts_lists_and_dictionaries() -> None:
    assert to_plain(Bicycle("Ada", gears=((1, 2), (3,)))) == {
        "owner": "Ada",
        "brakes": True,
        "colour": "red",
        "wheels": [{"radius": 0.3, "spokes": 32, "tube": None}] * 2,
        "front": {"radius": 0.3, "spokes": 32, "tube": None},
        "gears": [[1, 2], [3]],
        "size": [54, 1.0],
        "bell": None,
        "weight": None,
    }


def test_missing_keys_take_their_defaults() -> None:
    assert from_plain(Bicycle, {"owner": "Ada", "front": {"spokes": 3}}) == Bicycle(
        "Ada", front=Wheel(spokes=3)
    )


def test_a_key_without_default_must_be_there() -> None:
    assert _error({}) == "owner is missing: it has no default."
    assert _error({}, DetectorSettings).startswith("class_names is missing")


def test_settings_objects_pass_through() -> None:
    wheel = Wheel(radius=1.0)
    assert from_plain(Bicycle, {"owner": "Ada", "front": wheel}).front is wheel


def test_whole_numbers_pass_for_numbers_and_nothing_else_does() -> None:
    bicycle = from_plain(Bicycle, {"owner": "Ada", "front": {"radius": 1}, "size": [54, 2]})
    assert isinstance(bicycle.front.radius, float)
    assert isinstance(bicycle.size[1], float)
    assert _bicycle(front={"radius": "1"}).startswith("front.radius='1' is not possible: it must")
    assert "front.radius=True" in _bicycle(front={"radius": True})
    assert "front.spokes=32.0 is not possible: it must be a whole number" in _bicycle(
        front={"spokes": 32.0}
    )
    assert "front.spokes=True" in _bicycle(front={"spokes": True})
    assert "brakes=1 is not possible: it must be true or false" in _bicycle(brakes=1)
    assert "brakes='yes'" in _bicycle(brakes="yes")
    assert "owner=7 is not possible: it must be a text" in _error({"owner": 7})
    assert "owner=None" in _error({"owner": None})


def test_an_unknown_key_names_the_nearest_and_all_known() -> None:
    message = _bicycle(colur="red")
    assert message.startswith("Unknown key 'colur', did you mean 'colour'? Known keys: bell, ")
    message = _bicycle(front={"spoke": 3})
    assert message.startswith("Unknown key 'front.spoke', did you mean 'spokes'? Known keys: ")
    assert _bicycle(qqq=1).startswith("Unknown key 'qqq'. Known keys: ")
    assert "'3'" in _error({"owner": "Ada", 3: 4})


def test_nearest_word() -> None:
    assert nearest("resnet8", ["resnet18", "vgg16"]) == ", did you mean 'resnet18'?"
    assert nearest("something", ["resnet18", "vgg16"]) == "."


def test_one_of_a_few_words() -> None:
    assert (
        _bicycle(colour="green") == "colour='green' is not possible: choose one of 'red', 'blue'."
    )
    assert "colour=['red']" in _bicycle(colour=["red"])


def test_a_value_out_of_range_names_the_full_key() -> None:
    assert _bicycle(front={"radius": -1.0}) == (
        "front.radius=-1.0 is not possible: it is above 0 metres."
    )
    assert _error({"radius": 0.0}, Wheel) == "radius=0.0 is not possible: it is above 0 metres."
    message = _error(
        {"class_names": ["cat"], "anchor_sampling": {"positive_iou": 1.5}}, DetectorSettings
    )
    assert message.startswith("anchor_sampling.positive_iou=1.5 is not possible: ")
    assert _error({"class_names": []}, DetectorSettings).startswith("class_names=() is not")
    with pytest.raises(SettingsError, match=r"^model\.rpn\.channels=0 "):
        from_plain(RPNSettings, {"channels": 0}, where="model.rpn")


def test_not_a_number_is_out_of_range() -> None:
    assert _error({"positive_iou": float("nan")}, AnchorSampling).startswith("positive_iou=nan")


def test_optional_values() -> None:
    assert from_plain(Bicycle, {"owner": "Ada", "bell": None, "weight": 7}).weight == 7
    assert "bell=3" in _bicycle(bell=3)
    assert "weight=1.5 is not possible: it must be a whole number" in _bicycle(weight=1.5)
    assert "front.tube='wood' is not possible: choose one of 'latex', 'butyl'" in _bicycle(
        front={"tube": "wood"}
    )


def test_lists_name_the_item() -> None:
    assert "size=[1] is not possible: it must have 2 items" in _bicycle(size=[1])
    assert "size='ab' is not possible: it must be a list" in _bicycle(size="ab")
    assert "size=5 is not possible: it must be a list" in _bicycle(size=5)
    assert "gears[1][2]='x' is not possible" in _bicycle(gears=[[1], [2, 3, "x"]])
    assert "gears[0]=3 is not possible: it must be a list" in _bicycle(gears=[3])
    assert "'wheels[1].spoke'" in _bicycle(wheels=[{}, {"spoke": 3}])
    assert "wheels[0].radius=0.0" in _bicycle(wheels=[{"radius": 0.0}])
    assert from_plain(Bicycle, {"owner": "Ada", "gears": []}).gears == ()


@pytest.mark.parametrize("values", [3, "front", [1, 2], None])
def test_a_group_must_hold_keys(values: Any) -> None:
    assert _bicycle(front=values).startswith("front must hold keys and values, not ")


def test_a_field_that_no_checkpoint_can_hold_is_the_programmers_error() -> None:
    @dataclass(frozen=True)
    class Odd:
        thing: complex = 0j

    with pytest.raises(TypeError, match="thing: settings cannot hold"):
        from_plain(Odd, {"thing": 1j})


def test_types_of_the_fields() -> None:
    kinds = field_types(Wheel)
    assert kinds["radius"] is float
    assert list(kinds) == ["radius", "spokes", "tube"]
