"""The systems by name."""

from __future__ import annotations

from rcnn.model.fast_rcnn import FastRCNN
from rcnn.model.faster_rcnn import FasterRCNN
from rcnn.model.proposal_network import ProposalNetwork
from rcnn.model.rcnn import RCNN
from rcnn.model.settings import DetectorSettings
from rcnn.model.sppnet import SPPNet
from rcnn.settings import SettingsError, nearest

Detector = FasterRCNN | ProposalNetwork | FastRCNN
"""Any system; R-CNN and SPP-net are kinds of ``FastRCNN``."""

SYSTEMS: dict[str, type[Detector]] = {
    "rcnn": RCNN,
    "sppnet": SPPNet,
    "fast_rcnn": FastRCNN,
    "faster_rcnn": FasterRCNN,
    "rpn": ProposalNetwork,
}


def build_detector(system: str, settings: DetectorSettings) -> Detector:
    """Build a system with random weights.

    Raises:
        SettingsError: there is no such system, or its settings do not fit each other.
    """
    return system_class(system)(settings)


def needs_proposals(system: str) -> bool:
    """Return whether a system takes proposals that come with the images."""
    return issubclass(system_class(system), FastRCNN)


def system_class(system: str) -> type[Detector]:
    """Return the class of a system.

    Raises:
        SettingsError: there is no such system.
    """
    if system not in SYSTEMS:
        raise SettingsError(
            f"system={system!r} is not possible{nearest(system, SYSTEMS)} "
            f"Known are {', '.join(SYSTEMS)}."
        )
    return SYSTEMS[system]
