"""The divergence from the teacher's softened answers (Hinton et al. 2015), as the kind of task has it."""

from torch import Tensor

from distill_mtl.distillation.term import TERMS, Term, TermInput
from distill_mtl.tasks.base import Truth


@TERMS.register("soft_targets")
class SoftTargets(Term):
    """The kind's divergence between the student's answers and the teacher's, at the task's temperature."""

    name = "soft_targets"
    weight = 1.0
    rows = "taught"

    def forward(self, rows: TermInput) -> Tensor:
        config, student, teacher = rows.config, rows.logits, rows.teacher.logits
        if config.known is None:
            truth = Truth(rows.labels, rows.labelled)
            return rows.kind.soft_target_loss(student, teacher, config.temperature, truth)
        # The teacher has no answer for the other classes, neither yes nor no.
        known = list(config.known)
        return rows.kind.soft_target_loss(student[:, known], teacher[:, known], config.temperature, None)
