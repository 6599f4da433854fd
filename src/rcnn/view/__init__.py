"""Drawing: arrays in, pictures out. Every picture is RGB, ``uint8``, 3 H W, on the CPU."""

from rcnn.view.canvas import image_of, to_pil, to_uint8
from rcnn.view.colours import class_colour
from rcnn.view.curves import plot_curves
from rcnn.view.draw import draw_comparison, draw_detections, draw_ground_truth
from rcnn.view.stages import (
    LegendEntry,
    draw_anchors,
    draw_proposals,
    draw_regression,
    draw_rois,
    stage_board,
    with_legend,
)

__all__ = [
    "LegendEntry",
    "class_colour",
    "draw_anchors",
    "draw_comparison",
    "draw_detections",
    "draw_ground_truth",
    "draw_proposals",
    "draw_regression",
    "draw_rois",
    "image_of",
    "plot_curves",
    "stage_board",
    "to_pil",
    "to_uint8",
    "with_legend",
]
