"""Slices of the test rows: which rows they have, their scores, and losses that the mean hides."""

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from evaluation_world import CLASSES, ListedRows, ToyStudent, ToyTeacher, as_processes, make_rows, pick
from result_toys import evaluation_of, task_result
from torch import Tensor, nn

from distill_mtl.data.batch import Batch
from distill_mtl.errors import ShardError, UserError
from distill_mtl.evaluation import Comparison, Evaluation, EvaluationSet, Processes, compare_networks
from distill_mtl.evaluation.result import Acceptance, SliceResult
from distill_mtl.evaluation.row_statistics import RowStatistics, collect
from distill_mtl.evaluation.slices import FEWEST, Slices, corrected, score_slices, slice_margins
from distill_mtl.evaluation.task_comparison import compare_tasks
from distill_mtl.report.console import console_table
from distill_mtl.report.headline import hidden_losses, verdict
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.classification import Classification

Teachers = dict[str, nn.Module | None]
Kinds = dict[str, TaskKind]


class SlicedRows(ListedRows):
    """Rows that carry members, by key."""

    def __init__(self, rows: Any, carried: dict[str, dict[str, bytes]]) -> None:
        super().__init__(rows)
        self.carried = carried


def sliced(rows: int = 120, **fields: Any) -> SlicedRows:
    """A classification and a segmentation; `slice.json` of row i has FIELD: of(i)."""
    sets = {
        ("word", "test"): make_rows("word", rows, dense=False, seed=1),
        ("part", "test"): make_rows("part", rows, dense=True, seed=2),
    }
    carried = {
        key: {
            "slice.json": json.dumps({name: of(number) for name, of in fields.items()}).encode(),
            "cls": str(number % 3).encode(),
            "meta.json": json.dumps({"hour": number % 24}).encode(),
        }
        for batch in sets.values()
        for number, key in enumerate(batch.keys)
    }
    return SlicedRows(sets, carried)


def rows_of(rules: Any, sources: SlicedRows, task: str = "word") -> dict[str, int]:
    return {name: len(keys) for name, keys in Slices.of(rules).rows(sources, [task], "test")[task].items()}


def day_or_night(row: int) -> str:
    return "night" if row % 4 == 0 else "day"


def test_rules_read_the_key_the_source_members_and_what_rows_carry() -> None:
    sources = sliced(100, light=day_or_night, box_area=lambda row: row * 10, tags=lambda row: ["a", row])
    rules = {
        "early": "key~^0000",
        "night": "light=night",
        "day": "light != night",
        "small": "box_area<400",
        "small_night": ["box_area<400", "light=night"],
        "second": "cls=2",
        "noon": "meta.json:hour == 12.0",
        "tagged": "tags=7",
        "all": "source=word",
        "one": "group=group7",
    }
    assert rows_of(rules, sources) == {
        "early": 10,
        "night": 25,
        "day": 75,
        "small": 40,
        "small_night": 10,
        "second": 33,
        "noon": 4,
        "tagged": 1,
        "all": 100,
        "one": 1,
    }


def test_without_rules_each_word_that_rows_carry_is_a_slice() -> None:
    sources = sliced(
        40,
        light=day_or_night,
        flash=lambda row: row % 2 == 0,
        area=lambda row: row,  # a number is none
        camera=lambda row: "one",  # all rows are no slice
        serial=lambda row: f"s{row}",  # nor is each row
    )
    assert rows_of(None, sources) == {
        "flash=false": 20,
        "flash=true": 20,
        "light=day": 30,
        "light=night": 10,
    }
    assert Slices.of({}).rows(sources, ["word"], "test") == {}


def test_a_field_that_no_row_has_is_refused_with_the_nearest() -> None:
    sources = sliced(30, light=day_or_night)
    with pytest.raises(
        UserError, match=r"evaluation\.slices\.dark: no row has .* 'lihgt'\. Did you mean 'light'\?"
    ):
        rows_of({"dark": "lihgt=night"}, sources)


def test_a_field_of_another_tasks_rows_is_none_of_this_ones() -> None:
    sources = sliced(30, light=day_or_night)
    for key in sources.rows["part", "test"].keys:
        del sources.carried[key]["slice.json"]
    found = Slices.of({"night": "light=night"}).rows(sources, ["word", "part"], "test")
    assert len(found["word"]["night"]) == 8
    assert "night" not in found["part"]


def test_a_member_that_is_no_object_is_named() -> None:
    sources = sliced(5)
    sources.carried["word/000/00003"]["slice.json"] = b"[1, 2]"
    with pytest.raises(ShardError, match=r"word/000/00003, member slice\.json: expected an object"):
        rows_of(None, sources)


def compare(sources: SlicedRows, student: Any, teachers: Teachers, kinds: Kinds, **asked: Any) -> Evaluation:
    processes = asked.pop("processes", Processes())
    rows = EvaluationSet(sources, "test", batch_size=17, processes=processes)
    return compare_networks(Comparison(student, teachers, kinds, rows), size=(8, 8), resamples=200, **asked)


def test_a_slice_is_scored_as_if_its_rows_were_the_set(
    student: ToyStudent, teachers: Teachers, kinds: Kinds
) -> None:
    """mIoU too, which is no mean of rows."""
    sources = sliced(light=day_or_night)
    whole = compare(sources, student, teachers, kinds, slices=Slices.of({"night": "light=night"}))
    for task in kinds:
        night = sources.rows[task, "test"]
        alone = ListedRows({(task, "test"): pick(night, list(range(0, 120, 4)))})
        found = collect(task, kinds[task], student, teachers[task], EvaluationSet(alone, "test"))
        (one,) = whole.tasks[task].slices
        assert (one.name, one.rows, one.groups) == ("night", 30, 30)
        assert one.student == pytest.approx(float(kinds[task].score(found.student)))
        assert one.teacher == pytest.approx(float(kinds[task].score(found.teacher)))
        assert one.delta == pytest.approx(one.student - one.teacher)
        assert one.ci95[0] <= one.delta <= one.ci95[1]


def test_several_processes_find_the_same_slices(
    student: ToyStudent, teachers: Teachers, kinds: Kinds
) -> None:
    sources = sliced(light=day_or_night)

    def work(processes: Processes) -> dict[str, Any]:
        return compare(sources, deepcopy(student), teachers, kinds, processes=processes).tasks

    alone = compare(sources, student, teachers, kinds).tasks
    assert len(alone["part"].slices) == 2
    assert as_processes(2, work) == [alone] * 2


class WrongAt(nn.Module):
    """A student that repeats its teacher, but for pictures whose first pixel is dark."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.teacher(images).logits
        dark = images[:, 0, 0, 0] < 0.1
        return {"word": torch.where(dark[:, None], logits.roll(1, 1), logits)}


def test_a_loss_that_the_mean_hides_stands_first_under_the_verdict(kinds: Kinds) -> None:
    sources = sliced(400)
    batch = sources.rows["word", "test"]
    dark = batch.images[:, 0, 0, 0] < 0.1 * 255
    for key, is_dark in zip(batch.keys, dark.tolist(), strict=True):
        light = "night" if is_dark else "day"
        sources.carried[key]["slice.json"] = json.dumps({"light": light}).encode()
    teacher = ToyTeacher(dense=False, seed=3)
    nn.init.dirac_(teacher.mix.weight)  # right but for wrong labels
    only = {"word": kinds["word"]}
    found = compare(sources, WrongAt(teacher), {"word": teacher}, only, acceptance=20.0)
    night, day = found.tasks["word"].slices
    assert (night.name, day.name) == ("light=night", "light=day")
    assert (day.delta, day.p_holm) == (0.0, 1.0)
    assert night.delta < -20
    assert night.p_holm < 1e-3
    assert found.accepted
    assert list(found.hidden_losses) == ["word in light=night"]
    lines = "\n".join(str(part) for part in console_table(found).renderables)
    at = lines.index("✓ accepted")
    assert lines[at:].splitlines()[1].startswith("! The mean hides a loss: word in light=night −")


def test_a_slice_with_few_independent_rows_is_not_scored(
    student: ToyStudent, teachers: Teachers, kinds: Kinds
) -> None:
    few = FEWEST - 1
    rules = {"few": f"n<{few}", "none": "n>1000", "enough": f"n<={few}"}
    found = compare(sliced(n=lambda row: row), student, teachers, kinds, slices=Slices.of(rules))
    scored = {one.name: one.student is not None for one in found.tasks["word"].slices}
    assert scored == {"few": False, "none": False, "enough": True}


def test_p_is_corrected_for_all_slices_of_all_tasks() -> None:
    """By hand: Holm (1979) of 0.001, 0.02, 0.03 and 0.4."""

    def slices(*of: float) -> tuple[SliceResult, ...]:
        return tuple(
            SliceResult(name=f"{p}", rows=50, groups=50, student=1.0, teacher=1.0, delta=-p, p=p) for p in of
        )

    found = corrected(
        {
            "a": task_result(slices=slices(0.03, 0.4)),
            "b": task_result(slices=(*slices(0.001, 0.02), SliceResult(name="few", rows=3, groups=3))),
        }
    )
    assert {one.name: one.p_holm for result in found.values() for one in result.slices} == {
        "0.001": pytest.approx(0.004),
        "0.02": pytest.approx(0.06),
        "0.03": pytest.approx(0.06),
        "0.4": pytest.approx(0.4),
        "few": None,
    }
    assert [one.name for one in found["a"].slices] == ["0.4", "0.03"]  # by delta, worst first


def night(delta: float, error: float = 0.5, **changes: Any) -> SliceResult:
    return SliceResult(
        **{
            "name": "night",
            "rows": 200,
            "groups": 200,
            "teacher": 90.0,
            "student": 90 + delta,
            "delta": delta,
            "ci95": (delta - error, delta + error),
            "p": 0.001,
            "p_holm": 0.004,
            **changes,
        }
    )


def judged(one: SliceResult, margin: float | None, **task: Any) -> Evaluation:
    slices = {} if margin is None else {"night": {"word": margin}}
    return evaluation_of(
        {"word": task_result(**task, slices=(one,))},
        acceptance=Acceptance("interval", {"word": 1.0}, slices=slices),
    )


def test_a_slice_with_a_margin_decides_too() -> None:
    assert judged(night(-1.0), 2.0).accepted
    lost = judged(night(-5.0), 2.0)
    assert not lost.accepted
    assert verdict(lost).words == "✗ not accepted: inferior: word in night −5.00 (allowed −2.00)"
    assert lost.hidden_losses == {}  # the verdict says it
    unsure = judged(night(-2.0, 1.5), 2.1)
    assert not unsure.accepted
    assert "undecided: word in night (about" in verdict(unsure).words


def test_too_few_rows_of_a_slice_that_decides_leave_it_undecided() -> None:
    found = judged(SliceResult(name="night", rows=3, groups=3), 2.0)
    assert not found.accepted
    assert found.tasks["word"].slices[0].verdict == "undecided"
    assert "word in night (too few rows to score)" in verdict(found).words


@pytest.mark.parametrize(
    ("one", "task", "hides"),
    [
        (night(-3.0), {}, True),
        (night(-0.9), {}, False),  # within the margin
        (night(-3.0, p_holm=0.06), {}, False),  # within chance, of so many slices
        (night(-3.0), {"delta": -3.0}, False),  # the task's own verdict says it
        (night(3.0), {}, False),
    ],
)
def test_what_is_a_hidden_loss(one: SliceResult, task: Any, hides: bool) -> None:
    found = judged(one, None, **task)
    assert bool(hidden_losses(found)) is hides


def test_a_results_file_keeps_slices_and_margins(tmp_path: Any) -> None:
    found = judged(night(-5.0), 2.0, resampled=(0.5, -1e-7, 3.0), drawn_from="abc")
    found.write(tmp_path / "results.json")
    assert Evaluation.read(tmp_path / "results.json") == found
    assert '"resampled": [ 0.5, -1e-07, 3.0 ]' in (tmp_path / "results.json").read_text()


def test_margins_of_slices_are_for_the_tasks_that_have_them() -> None:
    rows = {"a": {"night": frozenset("x")}, "b/1": {"night": frozenset()}, "c": {}}
    assert slice_margins({"night": 2.0}, rows) == {"night": {"a": 2.0, "b/1": 2.0}}
    assert slice_margins({"night": {"b": 3.0, "c": 1.0}}, rows) == {"night": {"b/1": 3.0}}
    with pytest.raises(UserError, match=r"acceptance\.slices\.nihgt: .*Did you mean 'night'\? Slices: night"):
        slice_margins({"nihgt": 1.0}, rows)


class WithoutRightRows(Classification):
    """Its score is told to be no share of right rows, so that p is that of a t test."""

    def correct_rows(self, statistics: Tensor) -> None:
        return None


@pytest.mark.parametrize("of", [Classification, WithoutRightRows])
def test_slices_of_equal_networks_are_seldom_said_to_lose(of: type[Classification]) -> None:
    """Of 120 drawn sets at most one in twenty has any slice with a false alarm, however many slices overlap."""
    kind, draws, rows, alarms = of(CLASSES), torch.Generator().manual_seed(3), 200, 0
    keys = [f"{row:03d}" for row in range(rows)]
    slices = {f"{first}": frozenset(keys[first : first + 40]) for first in range(0, 160, 20)}
    for _ in range(120):
        way = torch.rand(rows, generator=draws)
        student, teacher = (way < 0.8), (way < 0.65) | (way > 0.85)
        found = score_slices(
            kind,
            RowStatistics(keys, keys, of_right_rows(student), of_right_rows(teacher), None),
            slices,
            resamples=100,
            seed=0,
        )
        (result,) = corrected({"word": task_result(slices=found)}).values()
        alarms += any(one.p_holm < 0.05 for one in result.slices)
    assert alarms / 120 <= 0.05


def of_right_rows(right: Tensor) -> Tensor:
    """Statistics of a classification that is right there."""
    rest = torch.tensor([1.0, 0.0]).expand(len(right), 2)
    return torch.cat([right.double()[:, None], rest], 1)


class Known(nn.Module):
    """Answers pictures that it has seen."""

    def __init__(self, batch: Batch, logits: Tensor) -> None:
        super().__init__()
        images = batch.to("cpu").images
        self.answers = {image.numpy().tobytes(): answer for image, answer in zip(images, logits, strict=True)}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"word": torch.stack([self.answers[image.numpy().tobytes()] for image in images])}


def test_the_average_precision_of_a_slice_is_that_of_its_rows(kinds: Kinds) -> None:
    kind = build_kind("multilabel", CLASSES, metric="map")
    draws = torch.Generator().manual_seed(0)
    logits = torch.randn(90, 3, generator=draws)
    labels = (torch.randn(90, 3, generator=draws) > 0).long()
    batch = make_rows("word", 90, dense=False)
    sources = sliced(90, light=day_or_night)
    sources.rows["word", "test"] = replace(batch, labels={"word": labels})
    found = compare_tasks(
        Comparison(Known(batch, logits), {"word": None}, {"word": kind}, EvaluationSet(sources, "test")),
        slices=Slices.of({"night": "light=night"}).rows(sources, ["word"], "test"),
    )
    alone = float(kind.score(kind.statistics(logits[::4], labels[::4])))
    assert found["word"].slices[0].student == pytest.approx(alone)
    assert alone != pytest.approx(found["word"].student)
