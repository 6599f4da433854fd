"""Tables over many runs: a paper's figures beside ours, and whether ours show the same pattern."""

from rcnn.report.comparison import Line, Report, compare
from rcnn.report.node import read_plan
from rcnn.report.plan import Plan
from rcnn.report.runs import ReportError, Run, find_runs

__all__ = ["Line", "Plan", "Report", "ReportError", "Run", "compare", "find_runs", "read_plan"]
