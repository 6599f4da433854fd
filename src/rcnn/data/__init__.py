"""Data sets of annotated images: reading, checking, transforming, batching."""

from rcnn.data.augment import (
    AugmentSettings,
    EvaluationTransform,
    TrainingTransform,
    Transform,
    flip,
    resized,
)
from rcnn.data.batching import (
    AspectGroupedBatchSampler,
    DetectionBatch,
    EvaluationBatchSampler,
    SampleIndex,
    TransformedDataset,
    collate,
)
from rcnn.data.check import DataReport, check
from rcnn.data.coco import COCODataset
from rcnn.data.dataset import DetectionDataset, IndexedDataset, JoinedDataset, Sample
from rcnn.data.errors import DataError, DataWarning, OnError, Problems
from rcnn.data.images import Picture, as_images, read_image
from rcnn.data.index import AnnotationIndex, IndexBuilder
from rcnn.data.shapes import ShapesDataset
from rcnn.data.splits import (
    COCOSource,
    DataSource,
    PascalSource,
    ShapesSource,
    Split,
    TrainingSource,
    VOCSource,
)
from rcnn.data.voc import PASCAL_CLASSES, VOCDataset, pascal_voc

__all__ = [
    "PASCAL_CLASSES",
    "AnnotationIndex",
    "AspectGroupedBatchSampler",
    "AugmentSettings",
    "COCODataset",
    "COCOSource",
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
    "Picture",
    "Problems",
    "Sample",
    "SampleIndex",
    "ShapesDataset",
    "ShapesSource",
    "Split",
    "TrainingSource",
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
