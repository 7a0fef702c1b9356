"""The loss on labels, as the kind of task has it."""

from torch import Tensor

from distill_mtl.distillation.term import TERMS, Term, TermInput


@TERMS.register("supervised")
class Supervised(Term):
    """The kind's loss between the student's answers and labels."""

    name = "supervised"
    weight = 1.0
    rows = "labelled"

    def forward(self, rows: TermInput) -> Tensor:
        return rows.kind.supervised_loss(rows.logits, rows.labels)
