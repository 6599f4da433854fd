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
from rcnn.data.builder import IndexBuilder, checked_class_names
from rcnn.data.check import DataReport, check
from rcnn.data.coco import COCODataset
from rcnn.data.dataset import DetectionDataset, IndexedDataset, JoinedDataset, Sample
from rcnn.data.errors import Case, DataError, DataWarning, Kind, OnError, Problems
from rcnn.data.images import Picture, as_images, read_image
from rcnn.data.index import AnnotationIndex
from rcnn.data.shapes import ShapesDataset
from rcnn.data.splits import (
    COCOSource,
    DataSource,
    FileSource,
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
    "Case",
    "DataError",
    "DataReport",
    "DataSource",
    "DataWarning",
    "DetectionBatch",
    "DetectionDataset",
    "EvaluationBatchSampler",
    "EvaluationTransform",
    "FileSource",
    "IndexBuilder",
    "IndexedDataset",
    "JoinedDataset",
    "Kind",
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
    "checked_class_names",
    "collate",
    "flip",
    "pascal_voc",
    "read_image",
    "resized",
]
