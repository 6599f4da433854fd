"""Data sets of annotated images: reading, checking, transforming, batching."""

from rcnn.data.augment import (
    EvaluationTransform,
    Pick,
    TrainingTransform,
    Transform,
    TransformedDataset,
    flip,
    resized,
)
from rcnn.data.batching import AspectGroupedBatchSampler, EvaluationBatchSampler, collate
from rcnn.data.cache import PictureCache
from rcnn.data.cache_budget import CacheBudget
from rcnn.data.check import DataReport, check
from rcnn.data.coco import COCODataset
from rcnn.data.dataset import (
    DetectionBatch,
    DetectionDataset,
    IndexedDataset,
    JoinedDataset,
    Sample,
)
from rcnn.data.errors import DataError, DataWarning, OnError, Problems
from rcnn.data.images import Picture, as_images, read_image
from rcnn.data.index import AnnotationIndex, IndexBuilder
from rcnn.data.shapes import ShapesDataset
from rcnn.data.splits import COCOSource, DataSource, PascalSource, ShapesSource, VOCSource
from rcnn.data.voc import PASCAL_CLASSES, VOCDataset, pascal_voc

__all__ = [
    "PASCAL_CLASSES",
    "AnnotationIndex",
    "AspectGroupedBatchSampler",
    "COCODataset",
    "COCOSource",
    "CacheBudget",
    "DataError",
    "DataReport",
    "DataSource",
    "DataWarning",
    "DetectionBatch",
    "DetectionDataset",
    "EvaluationBatchSampler",
    "EvaluationTransform",
    "IndexBuilder",
    "IndexedDataset",
    "JoinedDataset",
    "OnError",
    "PascalSource",
    "Pick",
    "Picture",
    "PictureCache",
    "Problems",
    "Sample",
    "ShapesDataset",
    "ShapesSource",
    "TrainingTransform",
    "Transform",
    "TransformedDataset",
    "VOCDataset",
    "VOCSource",
    "as_images",
    "check",
    "collate",
    "flip",
    "pascal_voc",
    "read_image",
    "resized",
]
