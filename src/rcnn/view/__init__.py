"""Drawing: arrays in, pictures out. Every picture is RGB, ``uint8``, 3 H W, on the CPU."""

from rcnn.view.boards import LegendEntry, side_by_side, stage_board, with_legend
from rcnn.view.curves import plot_curves
from rcnn.view.detections import draw_comparison, draw_detections, draw_ground_truth
from rcnn.view.palette import class_colour
from rcnn.view.stages import draw_anchors, draw_proposals, draw_regression, draw_rois
from rcnn.view.tensors import image_of, to_pil, to_uint8

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
    "side_by_side",
    "stage_board",
    "to_pil",
    "to_uint8",
    "with_legend",
]
