"""Tables over many runs: a paper's figures beside ours.

The definition of a table (``rcnn.report.runs``) is read without pandas, which a training does
not need. ``rcnn.report.tables`` compares runs, ``rcnn.report.text`` and ``rcnn.report.plots`` show
what it found.
"""

from rcnn.report.runs import Plan, ReportError, Run, find_runs, read_plan

__all__ = ["Plan", "ReportError", "Run", "find_runs", "read_plan"]
