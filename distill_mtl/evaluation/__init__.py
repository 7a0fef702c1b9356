"""The comparison of one student with its teachers: scores, intervals, verdict and cost, as one result."""

from distill_mtl.evaluation.comparison import compare_networks
from distill_mtl.evaluation.evaluation_set import Comparison, EvaluationSet, Processes
from distill_mtl.evaluation.network_costs import Cost, Costs
from distill_mtl.evaluation.result import Acceptance, Evaluation, TaskResult
from distill_mtl.evaluation.selection import delta_on, references

__all__ = [
    "Acceptance",
    "Comparison",
    "Cost",
    "Costs",
    "Evaluation",
    "EvaluationSet",
    "Processes",
    "TaskResult",
    "compare_networks",
    "delta_on",
    "references",
]
