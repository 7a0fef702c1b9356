"""Rows of a task as rows of a smaller one: labels of some of its classes, from the data sets that tell of them.

A teacher of a task with several is measured, and compared with the student, on the classes that it knows.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from distill_mtl.data.batch import Batch
from distill_mtl.tasks.class_view import ClassView


@dataclass(frozen=True)
class ClassRows:
    """Which rows of a task one of its smaller tasks has.

    Attributes:
        task: the whole one.
        view: its classes in the smaller one.
        sources: data sets whose labels tell of them.
    """

    task: str
    view: ClassView
    sources: Collection[str]

    def of(self, batches: Iterable[Batch], name: str) -> Iterator[Batch]:
        """The rows whose labels say something, labelled for the smaller task under this name."""
        for batch in batches:
            labels, said = self.view.labels(batch.labels[self.task])
            rows = replace(batch, labels={name: labels}, labelled={name: batch.labelled[self.task]}, open={})
            if not said.all():
                rows = rows.only(said.cpu().nonzero().flatten())
            if len(rows):
                yield rows
