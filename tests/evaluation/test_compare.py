"""Student against teacher on the task's own rows, through evaluate and its parts."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from evaluation_world import CLASSES, ListedRows, ToyStudent, ToyTeacher, as_processes, make_rows
from result_toys import with_margins, with_rule
from torch import Tensor, nn

from distill_mtl.checks.teacher_score import measure_score
from distill_mtl.data.batch import Batch
from distill_mtl.errors import ShardError, UserError
from distill_mtl.evaluation import (
    Comparison,
    Evaluation,
    EvaluationSet,
    Processes,
    TaskResult,
    compare_networks,
    delta_on,
    references,
)
from distill_mtl.evaluation.row_statistics import within_known
from distill_mtl.evaluation.selection import Reference
from distill_mtl.evaluation.task_comparison import compare_tasks
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.classification import Classification
from distill_mtl.teachers.label_map import UNKNOWN
from distill_mtl.teachers.teacher import TeacherOutput

Teachers = dict[str, nn.Module | None]
Kinds = dict[str, TaskKind]


def run(
    student: Any, teachers: Teachers, kinds: Kinds, sources: ListedRows, **view: Any
) -> dict[str, TaskResult]:
    return compare_tasks(
        Comparison(student, teachers, kinds, EvaluationSet(sources, "test", **view)), resamples=300
    )


def test_scores_delta_and_agreement_by_hand(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    result = run(student, teachers, kinds, sources)["word"]
    batch = sources.rows["word", "test"].to("cpu")
    labels = batch.labels["word"]
    with torch.no_grad():
        mine = student.heads["word"](batch.images).logits.argmax(1)
        theirs = teachers["word"](batch.images).logits.argmax(1)
    assert result.rows == 90
    assert result.student == pytest.approx(100 * (mine == labels).float().mean().item())
    assert result.teacher == pytest.approx(100 * (theirs == labels).float().mean().item())
    assert result.delta == pytest.approx(result.student - result.teacher)
    assert result.agreement == pytest.approx((mine == theirs).float().mean().item())
    assert result.agreement < 1
    assert result.ci95[0] < result.delta < result.ci95[1]


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_an_answer_that_is_no_number_is_refused_by_its_key(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows, who: str
) -> None:
    network = student.heads["part"] if who == "student" else teachers["part"]
    network.mix.weight.data[1] = float("nan")
    with pytest.raises(UserError, match=f"'part': the {who} answers part/000/00000 with NaN"):
        run(student, teachers, kinds, sources)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_no_number_depends_on_the_batch_size(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows, batch_size: int
) -> None:
    assert run(student, teachers, kinds, sources, batch_size=batch_size) == run(
        student, teachers, kinds, sources
    )


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_find_what_one_finds(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows, world: int
) -> None:
    def work(processes: Processes) -> dict[str, TaskResult]:
        return run(deepcopy(student), teachers, kinds, sources, processes=processes, batch_size=8)

    assert as_processes(world, work) == [run(student, teachers, kinds, sources)] * world


def test_a_process_without_rows_takes_part(student: ToyStudent, teachers: Teachers, kinds: Kinds) -> None:
    sources = ListedRows({("word", "test"): make_rows("word", 2, dense=False)})
    only = {"word": kinds["word"]}

    def work(processes: Processes) -> dict[str, TaskResult]:
        return run(deepcopy(student), teachers, only, sources, processes=processes)

    assert as_processes(3, work) == [run(student, teachers, only, sources)] * 3


def test_every_process_reports_the_cost_that_the_first_one_measured(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    def work(processes: Processes) -> Evaluation:
        view = EvaluationSet(sources, "test", processes=processes)
        return compare_networks(
            Comparison(deepcopy(student), teachers, kinds, view), size=(8, 8), resamples=100
        )

    first, second = as_processes(2, work)
    assert first == second
    assert first.cost.student.flops > 0


def test_a_student_equal_to_its_teacher_is_as_certain_as_its_rows_are_many(
    student: ToyStudent, kinds: Kinds, sources: ListedRows
) -> None:
    for result in run(student, dict(student.heads), kinds, sources).values():
        assert (result.delta, result.agreement) == (0.0, 1.0)
        low, high = result.ci95
        # None of so many rows differs, which has a chance of 0.025 where a share of -low points does.
        assert (1 + low / 100) ** result.rows == pytest.approx(0.025)
        assert high == -low


class ErrorRate(Classification):
    """A score where less is better."""

    lower_is_better = frozenset({"accuracy"})

    def score_totals(self, totals: Tensor) -> Tensor:
        return 100 - super().score_totals(totals)


def test_delta_is_positive_for_the_better_student_where_less_is_better(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    right = run(student, teachers, {"word": kinds["word"]}, sources)["word"]
    wrong = run(student, teachers, {"word": ErrorRate(("a", "b", "c"))}, sources)["word"]
    assert right.delta
    assert wrong.student == pytest.approx(100 - right.student)
    assert wrong.delta == pytest.approx(right.delta)
    assert wrong.ci95 == pytest.approx(right.ci95)
    assert not wrong.higher_is_better


def test_a_task_without_a_teacher_is_scored_alone(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    result = run(student, teachers | {"word": None}, kinds, sources)["word"]
    assert result.student == run(student, teachers, kinds, sources)["word"].student
    assert (result.teacher, result.delta, result.ci95, result.agreement) == (None, None, None, None)


def test_a_loaded_student_folder_answers_in_dicts_and_is_measured_alike(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    def deployed(images: Tensor) -> dict[str, dict[str, Tensor]]:
        return {task: {"logits": head(images).logits} for task, head in student.heads.items()}

    assert run(deployed, teachers, kinds, sources) == run(student, teachers, kinds, sources)


def test_measuring_leaves_every_part_in_the_mode_it_was(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    student.train()
    student.heads["word"].eval()
    before = [module.training for module in student.modules()]
    first = run(student, teachers, kinds, sources)
    assert [module.training for module in student.modules()] == before
    assert run(student, teachers, kinds, sources) == first  # dropout was off


def test_progress_counts_to_the_number_of_rows(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    seen: list[tuple[int, int]] = []
    view = EvaluationSet(sources, "test", batch_size=16, limit=50)
    compare_tasks(
        Comparison(student, teachers, kinds, view),
        resamples=100,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (90, 90)  # 50 of 90 words, all 40 parts


def test_a_set_without_labelled_rows_is_refused_with_the_mend(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    sources.rows["word", "test"] = make_rows("word", 0, dense=False)
    with pytest.raises(ShardError, match=r"'word'.* test set.*split\.test"):
        run(student, teachers, kinds, sources)
    sources.rows["word", None] = sources.rows["word", "test"]
    everything = EvaluationSet(sources, None)
    with pytest.raises(ShardError, match="'word'.* no labelled row") as refused:
        compare_tasks(Comparison(student, teachers, {"word": kinds["word"]}, everything))
    assert "None" not in str(refused.value)


def test_deltas_on_validation_need_the_teachers_once(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    view = EvaluationSet(sources, "validation", batch_size=10)
    scores = references(teachers | {"part": None}, kinds, view)
    calls = teachers["word"].calls
    deltas = delta_on(Comparison(student, {}, kinds, view), scores)
    assert teachers["word"].calls == calls
    full = compare_tasks(Comparison(student, teachers, kinds, view), resamples=100)
    assert deltas["word"] == pytest.approx(full["word"].delta)
    assert deltas["part"] == full["part"].student
    worse = delta_on(Comparison(student, {}, kinds | {"word": ErrorRate(("a", "b", "c"))}, view), scores)
    assert worse["word"] == pytest.approx(scores["word"].score - (100 - full["word"].student))


def test_evaluate_joins_scores_cost_and_verdict(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    view = EvaluationSet(sources, "test")
    evaluation = compare_networks(Comparison(student, teachers, kinds, view), size=(8, 8), resamples=300)
    measured = run(student, teachers, kinds, sources)
    assert evaluation.tasks == {task: each.judged(1.0, "interval") for task, each in measured.items()}
    assert evaluation.cost.student.parameters == 18
    assert evaluation.cost.teachers is not None
    assert evaluation.cost.teachers.parameters == 18
    assert {task: head.parameters for task, head in evaluation.cost.heads.items()} == {"word": 9, "part": 9}
    flops = [head.flops for head in evaluation.cost.heads.values()]
    assert flops == [2 * 9 * 64] * 2
    assert sum(flops) == evaluation.cost.student.flops  # this student has no trunk
    assert evaluation.hashed == ("part",)
    assert evaluation.acceptance.rule == "interval"
    lowest = min(result.ci95[0] for result in evaluation.tasks.values())
    assert with_margins(evaluation, **dict.fromkeys(kinds, 0.01 - lowest)).accepted
    assert not with_margins(evaluation, **dict.fromkeys(kinds, -lowest - 0.01)).accepted
    evaluation = with_rule(evaluation, "point")
    worst = min(result.delta for result in evaluation.tasks.values())
    assert with_margins(evaluation, **dict.fromkeys(kinds, -worst)).accepted
    assert not with_margins(evaluation, **dict.fromkeys(kinds, -worst - 0.01)).accepted


def test_one_teacher_of_two_tasks_costs_once(student: ToyStudent, kinds: Kinds, sources: ListedRows) -> None:
    both = ToyTeacher(dense=True, seed=5)
    only = {"part": kinds["part"], "again": kinds["part"]}
    sources.rows["again", "test"] = make_rows("again", 4, dense=True)
    student.heads["again"] = ToyTeacher(dense=True, seed=6)
    evaluation = compare_networks(
        Comparison(student, {"part": both, "again": both}, only, EvaluationSet(sources, "test")),
        size=(8, 8),
        resamples=100,
    )
    assert evaluation.cost.teachers is not None
    assert evaluation.cost.teachers.parameters == 9


def test_without_teachers_there_is_nothing_to_judge(
    student: ToyStudent, kinds: Kinds, sources: ListedRows
) -> None:
    evaluation = compare_networks(
        Comparison(student, {}, kinds, EvaluationSet(sources, "test")), size=(8, 8), resamples=100
    )
    assert evaluation.accepted
    assert evaluation.cost.teachers is None
    assert evaluation.model_dump(mode="json")["cost"]["teachers"] is None


class KnowsTwo(ToyTeacher):
    """Right about the first two attributes, silent about the third."""

    known = (0, 1)

    def forward(self, images: Tensor) -> TeacherOutput:
        return TeacherOutput(answers(images).index_fill(1, torch.tensor([2]), UNKNOWN), {})


def answers(images: Tensor) -> Tensor:
    return images.mean((2, 3)) - 0.5


def attributes(rows: int) -> Batch:
    plain = make_rows("looks", rows, dense=False)
    return replace(plain, labels={"looks": (answers(plain.images.float() / 255) > 0).long()})


@pytest.mark.parametrize("metric", ["error", "map"])
def test_a_teacher_is_compared_on_the_attributes_that_it_knows(metric: str) -> None:
    kind, rows = build_kind("multilabel", CLASSES, metric), attributes(40)
    rows.labels["looks"][0, :2] = -1  # a row of which the teacher knows nothing

    def student(images: Tensor) -> dict[str, Tensor]:  # wrong about the second and the third
        return {"looks": answers(images) * torch.tensor([1.0, -1.0, -1.0])}

    view = EvaluationSet(ListedRows({("looks", "test"): rows}), "test")
    teacher = KnowsTwo(dense=False, seed=0)
    compared = Comparison(student, {"looks": teacher}, {"looks": kind}, view)
    result = compare_tasks(compared, resamples=100)["looks"]
    assert result.teacher == kind.perfect
    assert result.agreement == pytest.approx(0.5)
    assert result.rows == 39
    if metric == "error":
        assert result.student == pytest.approx(50)
    rows.labels["looks"][:, :2] = -1
    with pytest.raises(ShardError, match=r"'looks'.* test set.* \(a, b\)"):
        compare_tasks(Comparison(student, {"looks": teacher}, {"looks": kind}, view), resamples=100)


def test_the_check_measures_a_teacher_by_the_attributes_that_it_knows() -> None:
    kind, rows = build_kind("multilabel", CLASSES, "error"), attributes(40)
    teacher = KnowsTwo(dense=False, seed=0)
    seen = ListedRows({("looks", "test"): rows}).labelled("looks", "test", 16)
    pictures = [replace(batch, images=batch.images.float() / 255) for batch in seen]
    asked = [within_known(batch, kind, "looks", teacher.known) for batch in pictures]
    scores = [
        measure_score(lambda images: teacher(images).logits, kind, "looks", each)
        for each in (pictures, asked)
    ]
    assert scores[0].score > 10
    assert scores[1].score == 0
    silent = [within_known(batch, kind, "looks", ()) for batch in pictures]
    assert measure_score(lambda images: teacher(images).logits, kind, "looks", silent) is None


def values(rows: int, unit: float) -> Batch:
    plain = make_rows("light", rows, dense=False)
    return replace(plain, labels={"light": unit * answers(plain.images.float() / 255)})


@pytest.mark.parametrize("taught", [True, False])
def test_a_delta_in_a_unit_counts_in_percent_whatever_the_unit(taught: bool) -> None:
    deltas = []
    for unit in (1.0, 1000.0):
        kind = build_kind("regression", CLASSES, "mae", scale=unit)
        view = EvaluationSet(ListedRows({("light", "validation"): values(40, unit)}), "validation")

        def off(images: Tensor, by: float, unit: float = unit) -> Tensor:
            return unit * (answers(images) + by)

        teacher = (lambda images, off=off: TeacherOutput(off(images, 0.04), {})) if taught else None
        against = references({"light": teacher}, {"light": kind}, view)
        student = lambda images, off=off: {"light": off(images, 0.03)}  # noqa: E731
        deltas.append(delta_on(Comparison(student, {}, {"light": kind}, view), against)["light"])
        if not taught:
            labels = view.sources.rows["light", "validation"].labels["light"]
            assert against["light"].score == kind.constant_score(kind.label_counts(labels))
    assert deltas[0] == pytest.approx(deltas[1], rel=1e-3)
    if taught:
        assert deltas[0] == pytest.approx(25, rel=1e-3)  # its error is a quarter less


def test_a_reference_without_error_has_no_percent() -> None:
    kind, rows = build_kind("regression", CLASSES, "mae"), values(20, 1.0)
    view = EvaluationSet(ListedRows({("light", "validation"): rows}), "validation")
    student = lambda images: {"light": answers(images) + 0.5}  # noqa: E731
    found = delta_on(Comparison(student, {}, {"light": kind}, view), {"light": Reference(0.0)})
    assert found["light"] == pytest.approx(-0.5)


def test_along_the_way_too_both_are_scored_on_what_the_teacher_knows() -> None:
    kind = build_kind("multilabel", CLASSES, "error")
    view = EvaluationSet(ListedRows({("looks", "validation"): attributes(40)}), "validation")
    against = references({"looks": KnowsTwo(dense=False, seed=0)}, {"looks": kind}, view)
    assert against == {"looks": Reference(0.0, (0, 1))}
    student = lambda images: {"looks": answers(images) * torch.tensor([1.0, 1.0, -1.0])}  # noqa: E731
    assert delta_on(Comparison(student, {}, {"looks": kind}, view), against) == {"looks": 0.0}
