"""Proposals that were made beforehand, in one file that is mapped into memory.

:class:`ProposalWriter`, :func:`import_mat` and :func:`import_json` make a file,
:class:`StoredProposals` reads it, :func:`attach` gives its boxes to the samples of a data set.
:mod:`rcnn.data.stored.layout` documents the format.
"""

from rcnn.data.stored.attach import attach
from rcnn.data.stored.digest import digest, image_sizes
from rcnn.data.stored.mat import import_mat
from rcnn.data.stored.proposed import ProposedDataset
from rcnn.data.stored.results import import_json
from rcnn.data.stored.store import StoredProposals
from rcnn.data.stored.writer import ProposalWriter

__all__ = [
    "ProposalWriter",
    "ProposedDataset",
    "StoredProposals",
    "attach",
    "digest",
    "image_sizes",
    "import_json",
    "import_mat",
]
