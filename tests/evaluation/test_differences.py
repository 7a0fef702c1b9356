"""Where a student differs from its teacher: classes, confidence, McNemar's test, and the hardest rows."""

import json
import math
from copy import deepcopy

import pytest
import torch
from evaluation_world import CLASSES, ListedRows, ToyStudent, as_processes, make_rows
from result_toys import task_result
from scipy.stats import binom
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from distill_mtl.evaluation import Comparison, EvaluationSet, Processes, TaskResult, compare_networks
from distill_mtl.evaluation.mcnemar import mcnemar
from distill_mtl.evaluation.result import ClassDelta, McNemar
from distill_mtl.evaluation.task_comparison import MOST_DISAGREEMENTS, compare_tasks, worst_classes
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import TeacherOutput

Teachers = dict[str, nn.Module | None]
Kinds = dict[str, TaskKind]


@pytest.fixture
def results(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> dict[str, TaskResult]:
    return compare_tasks(
        Comparison(student, teachers, kinds, EvaluationSet(sources, "test", batch_size=16)), resamples=100
    )


def test_the_hardest_rows_are_those_where_the_student_loses_most(
    results: dict[str, TaskResult], student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    batch, kind = sources.rows["part", "test"].to("cpu"), kinds["part"]
    losses = {}
    for row, key in enumerate(batch.keys):
        label = batch.labels["part"][row : row + 1]
        with torch.no_grad():
            mine, theirs = (
                float(kind.score(kind.statistics(head(batch.images[row : row + 1]).logits, label)))
                for head in (student.heads["part"], teachers["part"])
            )
        losses[key] = theirs - mine
    want = sorted((-loss, key) for key, loss in losses.items() if loss > 0)[:MOST_DISAGREEMENTS]
    found = results["part"].disagreements
    assert [each.key for each in found] == [key for _, key in want]
    assert [each.loss for each in found] == pytest.approx([-loss for loss, _ in want])
    assert len(found) > 3
    assert found[0].label is None  # a picture, which words do not say


def test_of_rows_that_lose_alike_those_come_first_where_the_student_is_surest(
    results: dict[str, TaskResult], student: ToyStudent, teachers: Teachers, sources: ListedRows
) -> None:
    found = results["word"].disagreements
    assert 1 < len(found) <= MOST_DISAGREEMENTS
    assert all(each.loss == 100 for each in found)
    batch = sources.rows["word", "test"].to("cpu")
    with torch.no_grad():
        mine, theirs = (
            cross_entropy(head(batch.images).logits, batch.labels["word"], reduction="none")
            for head in (student.heads["word"], teachers["word"])
        )
    surer = [float((mine - theirs)[batch.keys.index(each.key)]) for each in found]
    assert surer == pytest.approx(sorted(surer, reverse=True), abs=0.002)  # four digits decide
    assert [each.key for each in found] != sorted(each.key for each in found)
    for each in found:
        assert each.label in CLASSES
        assert each.teacher.split()[0] == each.label
        assert each.student.split()[0] != each.label


def test_a_student_as_good_on_every_row_has_no_disagreement(
    student: ToyStudent, kinds: Kinds, sources: ListedRows
) -> None:
    found = compare_tasks(
        Comparison(student, dict(student.heads), kinds, EvaluationSet(sources, "test")), resamples=100
    )
    assert all(result.disagreements == () for result in found.values())
    assert all(each.delta == 0 for result in found.values() for each in result.classes)


def test_long_words_are_cut(kinds: Kinds) -> None:
    class Wordy(type(kinds["word"])):  # type: ignore[misc]
        def show_answer(self, logits: Tensor, image: Tensor) -> object:
            return super().show_answer(logits, image)._replace(caption="x" * 500)

    sources = ListedRows({("word", "test"): make_rows("word", 30, dense=False)})
    wrong = lambda images: {"word": -images.mean((2, 3))}  # noqa: E731
    teacher = lambda images: TeacherOutput(images.mean((2, 3)), {})  # noqa: E731
    view = EvaluationSet(sources, "test")
    found = compare_tasks(
        Comparison(wrong, {"word": teacher}, {"word": Wordy(CLASSES)}, view), resamples=100
    )["word"]
    assert {len(each.teacher) for each in found.disagreements} == {80}


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_write_the_results_of_one(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows, world: int
) -> None:
    def work(processes: Processes) -> str:
        view = EvaluationSet(sources, "test", batch_size=8, processes=processes)
        found = compare_networks(
            Comparison(deepcopy(student), deepcopy(teachers), kinds, view), size=(8, 8), resamples=100
        )
        return json.dumps(found.model_dump(mode="json") | {"cost": None})

    alone = work(Processes())
    assert '"disagreements": [{"key"' in alone
    assert as_processes(world, work) == [alone] * world


def test_calibration_of_both_networks_is_reported(results: dict[str, TaskResult]) -> None:
    for result in results.values():
        assert result.ece is not None
        assert result.ece.teacher is not None
        assert 0 < result.ece.student < 100
        assert result.ece.student != result.ece.teacher


def test_without_a_teacher_the_student_s_own_figures_stand(
    student: ToyStudent, kinds: Kinds, sources: ListedRows
) -> None:
    found = compare_tasks(Comparison(student, {}, kinds, EvaluationSet(sources, "test")), resamples=100)[
        "word"
    ]
    assert found.ece is not None
    assert found.ece.teacher is None
    assert found.disagreements == ()
    assert [(each.teacher, each.delta) for each in found.classes] == [(None, None)] * 3
    assert found.mcnemar is None


def test_a_delta_of_a_class_is_positive_for_the_better_student(results: dict[str, TaskResult]) -> None:
    for each in results["part"].classes:
        assert each.delta == pytest.approx(each.student - each.teacher)
    part = results["part"]
    assert [each.name for each in part.classes] == list(CLASSES)
    assert sum(each.delta for each in part.classes) / 3 == pytest.approx(part.delta)


def test_mcnemar_counts_rows_that_one_network_alone_gets_right(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, results: dict[str, TaskResult]
) -> None:
    assert results["word"].mcnemar.test == "clustered"  # its rows come in groups of three
    assert results["part"].mcnemar is None  # an image is not right or wrong
    rows = make_rows("word", 90, dense=False, seed=1)
    alone = {"word": kinds["word"]}
    view = EvaluationSet(ListedRows({("word", "test"): rows}), "test")
    found = compare_tasks(Comparison(student, teachers, alone, view), resamples=100)["word"]
    test = found.mcnemar
    assert test is not None
    assert test.test == "exact"
    assert found.delta == pytest.approx(100 * (test.student_only - test.teacher_only) / 90)
    assert test.student_only > 0 < test.teacher_only


@pytest.mark.parametrize(("one", "other"), [(0, 0), (1, 0), (3, 9), (12, 12), (40, 17)])
def test_mcnemar_is_the_exact_test(one: int, other: int) -> None:
    found = counted(one, other)
    rows = one + other
    want = min(1.0, 2 * binom.cdf(min(one, other), rows, 0.5)) if rows else 1.0
    assert (found.student_only, found.teacher_only, found.test) == (one, other, "exact")
    assert found.p == pytest.approx(want)
    assert counted(other, one).p == found.p


def counted(student_only: int, teacher_only: int) -> McNemar:
    """The test of as many independent rows, and five that both get right."""
    right = [(True, False)] * student_only + [(False, True)] * teacher_only + [(True, True)] * 5
    student, teacher = torch.tensor(right).T
    return mcnemar(student, teacher, [f"{row:03d}" for row in range(len(right))])


def test_of_groups_mcnemar_weighs_each_by_what_it_says() -> None:
    """Leads of 3, 1, -1 and 0, with counts of 5 and 2 rows: six of the eight sums 3 +- 1 +- 1 are 3 from 0 or more."""
    student = torch.tensor([1, 1, 1, 1, 0, 0, 1, 0, 1], dtype=torch.bool)
    teacher = torch.tensor([0, 0, 0, 0, 1, 1, 1, 0, 0], dtype=torch.bool)
    found = mcnemar(student, teacher, ["a", "a", "a", "b", "c", "d", "d", "c", "d"])
    assert (found.student_only, found.teacher_only, found.test) == (5, 2, "clustered")
    assert found.p == 0.75
    assert mcnemar(teacher, student, list("aaabcddcd")).p == pytest.approx(found.p)
    assert mcnemar(student, student, list("aaabcddcd")).p == 1


def test_of_many_groups_mcnemar_compares_with_chi_square() -> None:
    """13 groups with a lead of 2 and 7 with one of -1: 19^2 / 59."""
    student = torch.tensor([True, True] * 13 + [False, True] * 7)
    teacher = torch.tensor([False, False] * 13 + [True, True] * 7)
    found = mcnemar(student, teacher, [f"{row // 2:02d}" for row in range(40)])
    assert (found.student_only, found.teacher_only, found.test) == (26, 7, "clustered")
    assert found.p == pytest.approx(math.erfc(math.sqrt(19**2 / 59 / 2)))


def classes(*deltas: float) -> tuple[ClassDelta, ...]:
    return tuple(
        ClassDelta(name, 80.0, 80 + delta, delta) for name, delta in zip("abcdefgh", deltas, strict=False)
    )


@pytest.mark.parametrize(
    ("deltas", "delta", "named"),
    [
        ((0.1, -0.9, 0.3), -0.2, ""),
        ((0.1, -1.5, 0.3), 0.0, "b"),
        ((-3.2, -2.9, -3.1), -3.0, ""),  # the task says so itself
        ((-9.0, -2.9, -3.1), -5.0, "a"),
        ((-2.0, -5.0, -3.0, -4.0), 0.5, "bdc"),
    ],
)
def test_classes_are_named_when_they_lose_much_more_than_their_task(
    deltas: tuple[float, ...], delta: float, named: str
) -> None:
    assert (
        "".join(each.name for each in worst_classes(task_result(delta, classes=classes(*deltas), margin=1.0)))
        == named
    )
