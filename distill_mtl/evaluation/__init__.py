"""The comparison of one student with its teachers: scores, intervals, cost, and the pages that show them."""

from distill_mtl.evaluation.results import Cost, Evaluation, TaskResult
from distill_mtl.evaluation.run import evaluate
from distill_mtl.evaluation.selection import delta_on, references
from distill_mtl.evaluation.view import Processes, View

__all__ = ["Cost", "Evaluation", "Processes", "TaskResult", "View", "delta_on", "evaluate", "references"]
