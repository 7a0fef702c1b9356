"""The summary of a result, as the console and the model card show it."""

import re
from dataclasses import replace

import pytest
import yaml
from result_toys import STUDENT, evaluation_of, task_result, toy_evaluation, with_margins, with_rule
from rich.console import Console

from distill_mtl.display import FILE_COLUMNS, output
from distill_mtl.evaluation import Cost, Evaluation
from distill_mtl.evaluation.network_costs import HeadCost
from distill_mtl.evaluation.result import (
    Baseline,
    BaselineScore,
    CalibrationError,
    ClassDelta,
    CrossDomainAgreement,
    McNemar,
)
from distill_mtl.report.console import console_table
from distill_mtl.report.markdown import markdown_summary, markdown_table
from distill_mtl.report.model_card import details_table, model_card
from distill_mtl.tasks.base import build_kind


@pytest.fixture
def evaluation() -> Evaluation:
    return toy_evaluation()


def shown(evaluation: Evaluation, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(console_table(evaluation))
    return capture.get()


def with_heads(evaluation: Evaluation, heads: dict[str, HeadCost]) -> Evaluation:
    return evaluation.changed(cost=replace(evaluation.cost, heads=heads))


def test_the_verdict_names_what_was_lost_and_what_is_allowed(evaluation: Evaluation) -> None:
    strict = with_margins(evaluation, right=0.4)
    assert "✗ not accepted: inferior: right −0.70 (allowed −0.40)" in shown(strict)
    assert "✗ not accepted: right −0.70 (allowed −0.40)" in shown(with_rule(strict, "point"))


def test_the_verdict_says_how_many_rows_would_decide(evaluation: Evaluation) -> None:
    strict = with_margins(evaluation, right=0.5)
    text = shown(strict)
    assert re.search(r"\? not accepted yet: undecided: right \(about 4,100 more rows", text)
    assert next(line for line in text.splitlines() if line.strip().startswith("right")).split()[-1] == "?"
    both = with_margins(strict, left=-1.0)
    verdict = r"✗ not accepted.*inferior: left \+0\.40 .*\+1\.00\).*undecided: right \(about"
    assert re.search(verdict, shown(both, 120))
    two = with_margins(strict, left=-0.5)
    assert re.search(r"undecided: left \(about 21,000 more.*\), right \(about 4,100 more", shown(two))
    assert "undecided: right (it lies on the margin)" in shown(with_margins(strict, right=0.7))
    alone = evaluation_of({"left": task_result(ci95=None)})
    assert "undecided: left (all its rows are of one group)" in shown(alone)


def test_the_console_shows_every_figure(evaluation: Evaluation) -> None:
    text = shown(evaluation)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "left accuracy 1,250 97.00 97.40 +0.40 +0.15 … +0.65 98.1 % ✓" in lines
    assert "right accuracy 1,250 97.00 96.30 −0.70 −0.95 … −0.45 98.1 % ✓" in lines
    assert "alone accuracy 1,250 – 97.00 – – – –" in lines
    assert "student 124,580 3.91 0.50 1.25 ms 2,500 12.0 MB" in lines
    assert "2 teachers 1,245,800 39.1 5.00 2.50 ms 1,000 not known" in lines
    assert "ratio 0.10× 0.10× 0.10× 0.50× 2.50× –" in lines
    assert re.search(r"✓ accepted: .*1 point.*95 % interval\n", text)


def test_a_narrow_console_shortens_the_metric_and_folds_the_interval_but_keeps_every_figure(
    evaluation: Evaluation,
) -> None:
    long = evaluation.changed(tasks={"left": task_result(metric="balanced_accuracy", rows=123_456)})
    text = shown(long, width=80)
    row = next(line for line in text.splitlines() if "left" in line)
    assert "…" in row.split()[1]
    assert " ".join(row.split()[2:]) == "123,456 97.00 97.40 +0.40 +0.15 … 98.1 % ✓"
    assert "+0.65" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_narrow_console_keeps_the_verdict_beside_long_names(evaluation: Evaluation) -> None:
    long = evaluation_of({"attributes_of_it": task_result(ci95=(-66.67, -13.33))})
    lines = shown(long, width=80).splitlines()
    at = next(number for number, line in enumerate(lines) if "attributes_of_it" in line)
    assert " ".join(lines[at].split()).endswith("+0.40 −66.67 … 98.1 % ✗")
    assert lines[at + 1].strip() == "−13.33"


def test_what_goes_to_a_file_is_not_cut_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output().width == FILE_COLUMNS
    monkeypatch.setenv("COLUMNS", "70")
    assert output().width == 70


def test_baselines_stand_under_their_task_in_the_same_table(evaluation: Evaluation) -> None:
    shared = {"left": BaselineScore(96.5, -0.5, (-1.25, 0.25))}
    said = evaluation.changed(
        baselines={
            "labels_only": Baseline("labels_only", shared | {"alone": BaselineScore(90.0, None, None)}),
            "/home/someone/runs/an-earlier-one": Baseline("model", shared),
        },
    )
    lines = [" ".join(line.split()) for line in shown(said, width=120).splitlines()]
    at = next(number for number, line in enumerate(lines) if line.startswith("left"))
    assert lines[at + 1] == "· labels only 96.50 −0.50 −1.25 … +0.25"
    assert lines[at + 2] == "· …/an-earlier-one 96.50 −0.50 −1.25 … +0.25"
    assert max(map(len, shown(said, width=80).splitlines())) <= 80
    assert "· labels only 90.00 – –" in lines
    assert "| · labels only |  |  |  | 96.50 | −0.50 | −1.25 … +0.25 |  |  |" in markdown_summary(said)


def test_costs_of_large_networks_fit_80_columns(evaluation: Evaluation) -> None:
    large = Cost(1_234_567_890, 987_654_000_000, 4_938_271_560, 12_345.67, 128, 12_345.6, 23_456_000_000)
    cost = replace(evaluation.cost, student=large, teachers=large)
    lines = shown(evaluation.changed(cost=cost), width=80).splitlines()
    costs = lines[next(number for number, line in enumerate(lines) if "rows/s" in line) :]
    assert max(map(len, costs[:5])) <= 80
    assert " ".join(costs[2].split()) == "student 1,234,567,890 987,654 4,938 12345.67 ms 12,346 23,456 MB"


def test_rows_that_a_teacher_may_have_seen_are_marked(evaluation: Evaluation) -> None:
    assert "may have seen" not in shown(evaluation)
    marked = evaluation.changed(hashed=("right", "alone"))
    text = shown(marked)
    assert "right *" in text
    assert "alone *" not in text  # it has no teacher that could have seen anything
    assert "the teacher may have seen them" in text
    assert "| right \\* |" in markdown_summary(marked)


def test_markdown_holds_the_same_figures_as_the_console(evaluation: Evaluation) -> None:
    text = markdown_summary(evaluation)
    assert "| left | accuracy | 1,250 | 97.00 | 97.40 | +0.40 | +0.15 … +0.65 | 98.1 % | ✓ |" in text
    assert "| ratio | 0.10× | 0.10× | 0.10× | 0.50× | 2.50× | – |" in text
    assert re.search(r"\*\*✓ accepted: .*1 point.*95 % interval\*\*", text)


def test_every_head_is_shown_with_its_share_of_the_student(evaluation: Evaluation) -> None:
    taken = {"left": (12_458, 391_000), "right": (6_229, 0), "alone": (0, 0)}
    heads = {task: HeadCost.of(*counts, STUDENT) for task, counts in taken.items()}
    said = with_heads(evaluation, heads)
    lines = [" ".join(line.split()) for line in shown(said, width=80).splitlines()]
    assert "head parameters share MFLOPs share" in lines
    assert "left 12,458 10.0 % 0.39 10.0 %" in lines
    assert "alone 0 0.0 % 0.00 0.0 %" in lines
    assert "all 3 18,687 15.0 % 0.39 10.0 %" in lines
    assert "| all 3 | 18,687 | 15.0 % | 0.39 | 10.0 % |" in markdown_summary(said)
    assert "head" not in markdown_summary(evaluation)


@pytest.mark.parametrize(
    ("teacher", "delta", "texts"),
    [
        (0.0314, -0.0012, ["0.03140", "0.03260", "−0.00120", "−0.00200"]),
        (41230.0, 17.0, ["41230", "41213", "+17", "+1000"]),
    ],
)
def test_scores_in_a_unit_of_their_own_are_shown_by_their_digits(
    evaluation: Evaluation, teacher: float, delta: float, texts: list[str]
) -> None:
    depth = task_result(
        delta,
        teacher,
        metric="rmse",
        higher_is_better=False,
        in_points=False,
        student=teacher - delta,
        ci95=(-0.002, 1000.0),
    )
    alone = with_margins(evaluation_of({"depth": depth}), depth=0.5)
    text = shown(alone, 120)
    assert all(figure in text for figure in texts)
    assert "accepted: no task lost more than its margin" in text


def test_of_many_heads_the_largest_few_and_their_sum_are_shown(evaluation: Evaluation) -> None:
    heads = {f"task{index}": HeadCost.of(100 * index, 10, STUDENT) for index in range(40)}
    lines = [line.split() for line in shown(with_heads(evaluation, heads)).splitlines()]
    rows = [line[0] for line in lines if line and line[0].startswith("task")]
    assert rows == ["task", "task39", "task38", "task37"]
    assert "| all 40 | 78,000 | 62.6 % |" in markdown_summary(with_heads(evaluation, heads))
    few = dict(list(heads.items())[:8])
    assert all(f"| {task} |" in markdown_summary(with_heads(evaluation, few)) for task in few)
    one = with_heads(evaluation, {"left": HeadCost.of(100, 10, STUDENT)})
    assert "all 1" not in markdown_summary(one)


def test_unusual_evaluations_are_told_in_words(evaluation: Evaluation) -> None:
    alone = evaluation_of({"alone": task_result(None)}, cost=replace(evaluation.cost, teachers=None))
    assert "nothing to judge: no task has a teacher" in shown(alone)
    assert "ratio" not in shown(alone)
    assert "delta" not in shown(alone)
    assert "| task | metric | rows | student |" in markdown_summary(alone)
    single = evaluation.changed(tasks={"left": task_result(ci95=None)})
    assert "No interval where all rows belong to one group" in shown(single)
    lower = evaluation.changed(tasks={"left": task_result(higher_is_better=False)})
    assert "accuracy ↓" in shown(lower)
    limits = with_margins(evaluation, right=2.0)
    assert "no task lost more than its margin" in shown(limits)


def test_the_worst_classes_stand_below_the_table() -> None:
    lost = (
        ClassDelta("a", 90.0, 90.5, 0.5),
        ClassDelta("b", 90.0, 85.8, -4.2),
        ClassDelta("c", 90.0, 87.9, -2.1),
    )
    told = evaluation_of({"word": task_result(0.1, classes=lost), "part": task_result(0.1, classes=lost[:1])})
    assert "worst: word/b −4.20, word/c −2.10\n" in shown(told)
    assert "worst: word/b −4.20, word/c −2.10" in markdown_summary(told)
    assert "worst" not in markdown_summary(evaluation_of({"part": told.tasks["part"]}))


def test_a_student_that_answers_otherwise_on_other_data_sets_is_named(evaluation: Evaluation) -> None:
    agreements = {"lost": CrossDomainAgreement(40, 0.0), "near": CrossDomainAgreement(512, 0.95)}
    text = shown(evaluation.changed(cross_domain={"left": agreements}), 200)
    assert re.search(r"left .*teacher on 0\.0 % of 40 .*'lost'.* own rows .*98\.1 %", text)
    assert "near" not in text


def test_the_card_s_second_table_holds_calibration_and_the_test() -> None:
    measured = task_result(ece=CalibrationError(2.5, 1.5), mcnemar=McNemar(3, 9, 0.15, "exact"))
    text = markdown_table(details_table(evaluation_of({"part": measured, "plain": task_result()})))
    assert "| part | 1.50 | 2.50 | 9 | 3 | 0.15 |" in text
    assert "plain" not in text
    grouped = replace(measured, ece=None, mcnemar=McNemar(3, 9, 0.15, "clustered"))
    assert "| part | 9 | 3 | 0.15 (groups) |" in markdown_table(
        details_table(evaluation_of({"part": grouped}))
    )


def test_the_card_says_what_the_student_does_and_how_to_load_it(evaluation: Evaluation) -> None:
    kinds = {
        "left": build_kind("classification", tuple("abc")),
        "part": build_kind("segmentation", tuple(f"part{index}" for index in range(30))),
    }
    card = model_card(
        name="pets",
        architecture="resnet18",
        size=(64, 96),
        kinds=kinds,
        teachers={"left": "teachers/left"},
        evaluation=evaluation,
        recipe_digest="ab12",
    )
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "distill_mtl"
    assert "image-segmentation" in front["tags"]
    assert "| left | classification | 3: a, b, c | `teachers/left` |" in card
    assert "and 10 more in config.json | labels only |" in card
    assert markdown_summary(evaluation).strip() in card
    assert "McNemar" not in card, "no task has either, so there is no second table"
    assert "ab12" in card
    assert "distilled from trained networks" in card
    assert "1, 3, 64, 96" in card
    code = card.split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")


def test_a_card_before_any_evaluation_has_no_table() -> None:
    kinds = {"left": build_kind("classification", tuple("abc"))}
    card = model_card(name="pets", architecture="resnet18", size=(64, 64), kinds=kinds)
    assert "Student against teachers" not in card
    assert "1 task:" in card
    assert "trained on labels" in card
