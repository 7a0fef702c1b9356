"""Every head on the other data sets' images, beside its teacher."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Barrier
from typing import Any

import pytest
import torch
from evaluation_world import ListedRows, ToyStudent
from torch import Tensor, nn

from distill_mtl.evaluation import Comparison, EvaluationSet, compare_networks, cross_domain
from distill_mtl.evaluation.cross_domain import notable
from distill_mtl.evaluation.evaluation_set import Processes
from distill_mtl.tasks.base import TaskKind

Kinds = dict[str, TaskKind]
Teachers = dict[str, nn.Module | None]


class SwitchesMode(nn.Module):
    """Answers `word` as its teacher does, but on images of a data set that it can tell: there it turns round."""

    def __init__(self, teachers: Teachers, tell: int) -> None:
        super().__init__()
        self.teachers, self.tell = dict(teachers), tell

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        answers = {task: teacher(images).logits for task, teacher in self.teachers.items() if teacher}
        foreign = images[:, 0, 0, 0] == self.tell / 255
        answers["word"] = torch.where(foreign[:, None], -answers["word"], answers["word"])
        return answers


def mark(sources: ListedRows, source: str, value: int) -> None:
    for (task, _), batch in sources.rows.items():
        batch.images[:, 0, 0, 0] = value if task == source else 255 - value


def test_a_student_that_switches_mode_is_found_and_named(
    teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    mark(sources, "part", 7)
    student = SwitchesMode(teachers, tell=7)
    evaluation = compare_networks(
        Comparison(student, teachers, kinds, EvaluationSet(sources, "test")), size=(8, 8), resamples=100
    )
    assert evaluation.tasks["word"].agreement == 1
    assert evaluation.cross_domain["word"]["part"].rows == 40
    assert evaluation.cross_domain["word"]["part"].agreement == pytest.approx(0, abs=0.2)
    assert evaluation.cross_domain["part"]["word"].agreement == 1
    written = evaluation.model_dump(mode="json")["cross_domain"]
    assert written["part"] == {"word": {"rows": 90, "agreement": 1.0}}


def test_a_student_that_is_alike_everywhere_gets_no_word(
    teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    student = SwitchesMode(teachers, tell=300)
    evaluation = compare_networks(
        Comparison(student, teachers, kinds, EvaluationSet(sources, "test")), size=(8, 8), resamples=100
    )
    assert evaluation.cross_domain["word"]["part"].agreement == 1
    assert evaluation.cross_domain["part"]["word"].agreement == 1


@pytest.mark.parametrize(
    ("rows", "agreement", "told"),
    [(16, 0.80, False), (16, 0.70, True), (512, 0.92, False), (512, 0.88, True), (16, None, False)],
)
def test_what_few_rows_could_be_by_chance_is_not_notable(
    rows: int, agreement: float | None, told: bool
) -> None:
    assert notable(1.0, agreement, rows) == told
    assert not notable(None, agreement, rows)


def test_only_tasks_with_a_teacher_have_somebody_to_agree_with(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    found = cross_domain.cross_domain(
        Comparison(student, teachers | {"part": None}, kinds, EvaluationSet(sources, "test"))
    )
    assert list(found["word"]) == ["part"]
    assert found["part"] == {}


def test_rows_are_capped(
    student: ToyStudent,
    teachers: Teachers,
    kinds: Kinds,
    sources: ListedRows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cross_domain, "MOST_ROWS", 12)
    found = cross_domain.cross_domain(Comparison(student, teachers, kinds, EvaluationSet(sources, "test")))
    assert {other.rows for sources in found.values() for other in sources.values()} == {12}


def test_several_processes_find_the_very_same(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    alone = cross_domain.cross_domain(
        Comparison(student, teachers, kinds, EvaluationSet(sources, "test", batch_size=7))
    )
    assert 0 < (alone["part"]["word"].agreement or 0) < 1
    shelf: list[list[Any]] = [[], [], []]
    meeting = Barrier(3)

    def run(rank: int) -> Any:
        def gather(items: list[Any]) -> list[Any]:
            shelf[rank] = items
            meeting.wait()
            joined = [item for part in shelf for item in part]
            meeting.wait()
            return joined

        view = EvaluationSet(sources, "test", batch_size=5, processes=Processes(rank, 3, gather))
        return cross_domain.cross_domain(Comparison(deepcopy(student), deepcopy(teachers), kinds, view))

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [alone] * 3
