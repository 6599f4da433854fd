"""What was said on the command line."""

from rcnn.app.overrides import read_overrides, said_to_hydra


def test_keys_choices_and_whole_groups_are_read() -> None:
    words = ["thresholds.proposal_score=0.1", "backbone=vgg16", "+sweep/lineage=rcnn", "~logger"]
    assert read_overrides(words) == {
        "thresholds.proposal_score": 0.1,
        "backbone": "vgg16",
        "sweep/lineage": "rcnn",
        "logger": None,
    }


def test_several_keys_in_one_word_are_told_apart() -> None:
    words = ["thresholds={proposal_score:0.1,proposal_nms_iou:1.0}", "++images.test_scales=[8,16]"]
    assert read_overrides(words) == {
        "thresholds.proposal_score": 0.1,
        "thresholds.proposal_nms_iou": 1.0,
        "images.test_scales": [8, 16],
    }


def test_outside_of_hydra_nothing_was_said() -> None:
    assert said_to_hydra() == {}
