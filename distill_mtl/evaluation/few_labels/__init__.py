"""Acceptance with few labels: which rows of an unlabelled set are asked, and what their answers say of all of it.

`draw` chooses rows at random with known chances, `estimate` makes a difference and its intervals from the answers.
`Questions` and `LabelledSet` are what stands between them: the files ask.json and result.json.
"""

from distill_mtl.evaluation.few_labels.draw import Draw, draw, draw_chances, shares, within
from distill_mtl.evaluation.few_labels.estimate import Drawn, Estimate, Proxies, estimate, estimate_decided
from distill_mtl.evaluation.few_labels.questions import AskedSlice, AskedTask, Question, Questions
from distill_mtl.evaluation.few_labels.result import LabelledSet, LabelledSlice, LabelledTask

__all__ = [
    "AskedSlice",
    "AskedTask",
    "Draw",
    "Drawn",
    "Estimate",
    "LabelledSet",
    "LabelledSlice",
    "LabelledTask",
    "Proxies",
    "Question",
    "Questions",
    "draw",
    "draw_chances",
    "estimate",
    "estimate_decided",
    "shares",
    "within",
]
