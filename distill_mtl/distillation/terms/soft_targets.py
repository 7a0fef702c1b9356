"""The divergence from the teacher's softened answers (Hinton et al. 2015), as the kind of task has it."""

from torch import Tensor

from distill_mtl.distillation.term import TERMS, Term, TermInput
from distill_mtl.tasks.base import Truth
from distill_mtl.tasks.class_view import class_view


@TERMS.register("soft_targets")
class SoftTargets(Term):
    """The kind's divergence between the student's answers and the teacher's, at the task's temperature.

    With a teacher's softened answer p over the classes that it knows, and the student's q over all of the task's, it is
    D(p, q') with the kind's divergence D. Where classes exclude each other, q' is q on the teacher's classes divided by
    its sum there; or, if one of them is a background b, q'(c) = q(c) for the others and q'(b) = q(b) plus q of all
    classes that the teacher does not know. Else q' is q on the teacher's classes. It is 0 where the student agrees
    with the teacher on what that knows, and no gradient says how the rest is divided.
    """

    name = "soft_targets"
    weight = 1.0
    rows = "taught"

    def forward(self, rows: TermInput) -> Tensor:
        temperature, student, teacher = rows.config.temperature, rows.logits, rows.teacher.logits
        if rows.known is None:
            return rows.kind.soft_target_loss(
                student, teacher, temperature, Truth(rows.labels, rows.labelled)
            )
        # The teacher has no answer for the other classes, neither yes nor no.
        view = class_view(rows.kind, rows.known)
        mine, theirs = view.of_student(student, temperature), view.of_teacher(teacher)
        return view.kind.soft_target_loss(mine, theirs, temperature, None)
