"""Data sets of annotated images: reading, checking, transforming, batching."""

from rcnn.data.batching import collate
from rcnn.data.cache import PictureCache
from rcnn.data.cache_budget import CacheBudget
from rcnn.data.coco import COCODataset
from rcnn.data.dataset import DetectionDataset, IndexedDataset
from rcnn.data.decoding import read_image
from rcnn.data.errors import DataError, DataWarning, OnError, Problems
from rcnn.data.index import AnnotationIndex
from rcnn.data.index_builder import IndexBuilder
from rcnn.data.joined import JoinedDataset
from rcnn.data.pascal import PASCAL_CLASSES, pascal_voc
from rcnn.data.pictures import Picture, as_images
from rcnn.data.report import DataReport, check
from rcnn.data.samplers import AspectGroupedBatchSampler, EvaluationBatchSampler
from rcnn.data.samples import DetectionBatch, Sample
from rcnn.data.shapes import ShapesDataset
from rcnn.data.sources import COCOSource, DataSource, PascalSource, ShapesSource, VOCSource
from rcnn.data.transformed import Pick, TransformedDataset
from rcnn.data.transforms import (
    EvaluationTransform,
    TrainingTransform,
    Transform,
    flip,
    resized,
)
from rcnn.data.voc import VOCDataset

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
