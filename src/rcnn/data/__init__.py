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
from rcnn.data.builder import IndexBuilder
from rcnn.data.class_names import checked_class_names
from rcnn.data.coco import COCODataset
from rcnn.data.convert import convert
from rcnn.data.dataset import (
    DetectionDataset,
    IndexedDataset,
    JoinedDataset,
    Sample,
    SubsetDataset,
)
from rcnn.data.errors import Case, DataError, DataWarning, Kind, OnError, Problems
from rcnn.data.images import Picture, as_images, read_image
from rcnn.data.index import AnnotationIndex
from rcnn.data.labelme import LabelmeDataset
from rcnn.data.layouts import AutoSource, CSVSource, LabelmeSource, YOLOSource
from rcnn.data.random_split import random_split
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
from rcnn.data.table import CSVDataset
from rcnn.data.voc import PASCAL_CLASSES, VOCDataset, pascal_voc
from rcnn.data.wrapped import DatasetSource, WrappedDataset
from rcnn.data.yolo import YOLODataset

__all__ = [
    "PASCAL_CLASSES",
    "AnnotationIndex",
    "AspectGroupedBatchSampler",
    "AugmentSettings",
    "AutoSource",
    "COCODataset",
    "COCOSource",
    "CSVDataset",
    "CSVSource",
    "Case",
    "DataError",
    "DataSource",
    "DataWarning",
    "DatasetSource",
    "DetectionBatch",
    "DetectionDataset",
    "EvaluationBatchSampler",
    "EvaluationTransform",
    "FileSource",
    "IndexBuilder",
    "IndexedDataset",
    "JoinedDataset",
    "Kind",
    "LabelmeDataset",
    "LabelmeSource",
    "OnError",
    "PascalSource",
    "Picture",
    "Problems",
    "Sample",
    "SampleIndex",
    "ShapesDataset",
    "ShapesSource",
    "Split",
    "SubsetDataset",
    "TrainingSource",
    "TrainingTransform",
    "Transform",
    "TransformedDataset",
    "VOCDataset",
    "VOCSource",
    "WrappedDataset",
    "YOLODataset",
    "YOLOSource",
    "as_images",
    "checked_class_names",
    "collate",
    "convert",
    "flip",
    "pascal_voc",
    "random_split",
    "read_image",
    "resized",
]
