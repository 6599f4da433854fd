"""The systems by name."""

from dataclasses import replace

import pytest

from rcnn.model.build import SYSTEMS, build_detector, needs_proposals, system_class
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.roi_pooling import PoolingSettings
from rcnn.model.settings import DetectorSettings
from rcnn.settings import SettingsError


@pytest.mark.parametrize("system", sorted(SYSTEMS))
def test_every_system_is_built_by_its_name(system: str, tiny: DetectorSettings) -> None:
    if system == "sppnet":
        tiny = replace(tiny, pooling=PoolingSettings(kind="pyramid"))
    detector = build_detector(system, tiny)
    assert type(detector) is system_class(system)
    assert detector.settings == tiny


def test_those_without_proposal_network_need_proposals() -> None:
    needy = {system for system in SYSTEMS if needs_proposals(system)}
    assert needy == {"fast_rcnn", "rcnn", "sppnet"}
    assert all(issubclass(SYSTEMS[name], ProposalNetwork) for name in SYSTEMS.keys() - needy)


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [("fast_rcn", "fast_rcnn"), ("sppent", "sppnet"), ("faster-rcnn", "faster_rcnn")],
)
def test_a_typo_is_an_error_that_names_the_nearest(typo: str, nearest: str) -> None:
    for function in (system_class, needs_proposals):
        with pytest.raises(SettingsError, match=f"system='{typo}'.*did you mean '{nearest}'"):
            function(typo)
