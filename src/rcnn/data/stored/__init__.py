"""Proposals that were made beforehand, in one file that is mapped into memory.

:func:`propose_by_search`, :func:`import_mat` and :func:`import_json` make a file with a
:class:`ProposalWriter`, as :func:`rcnn.training.propose.propose_with` does;
:class:`StoredProposals` reads it, :func:`attach` gives its boxes to the samples of a data set.
:mod:`rcnn.data.stored.layout` documents the format.
"""

from rcnn.data.stored.attach import attach
from rcnn.data.stored.digest import digest
from rcnn.data.stored.files import ProposalFiles
from rcnn.data.stored.mat import import_mat
from rcnn.data.stored.proposed import ProposedDataset
from rcnn.data.stored.results import import_json
from rcnn.data.stored.search import propose_by_search
from rcnn.data.stored.store import StoredProposals
from rcnn.data.stored.writer import ProposalWriter

__all__ = [
    "ProposalFiles",
    "ProposalWriter",
    "ProposedDataset",
    "StoredProposals",
    "attach",
    "digest",
    "import_json",
    "import_mat",
    "propose_by_search",
]
