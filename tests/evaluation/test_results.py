"""results.json, the tables and the model card: what other tools and people read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from distill_mtl.display import FILE_COLUMNS, output
from distill_mtl.evaluation.baselines import Baseline, BaselineScore, baselines_in
from distill_mtl.evaluation.card import model_card
from distill_mtl.evaluation.results import Cost, Evaluation, HeadCost, TaskResult, allowed_drops
from distill_mtl.tasks.base import build_kind


def result(delta: float | None = 0.4, teacher: float = 97.0, **changes: object) -> TaskResult:
    base = TaskResult(
        kind="classification",
        metric="accuracy",
        higher_is_better=True,
        rows=1250,
        groups=1250,
        student=teacher,
    )
    if delta is not None:
        base = replace(
            base,
            teacher=teacher,
            student=teacher + delta,
            delta=delta,
            ci95=(delta - 0.25, delta + 0.25),
            agreement=0.9812,
        )
    return replace(base, **changes)


@pytest.fixture
def evaluation() -> Evaluation:
    return Evaluation(
        tasks={"left": result(0.4), "right": result(-0.7), "alone": result(None)},
        student_cost=Cost(124_580, 3_910_000, 500_000, 1.25, 32, 2500.0, 12_000_000),
        teachers_cost=Cost(1_245_800, 39_100_000, 5_000_000, 2.5, 32, 1000.0, None),
        acceptance={"left": 1.0, "right": 1.0, "alone": 1.0},
        steps=400,
        seconds=61.5,
    )


def shown(evaluation: Evaluation, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(evaluation.table())
    return capture.get()


def test_results_json_has_the_promised_keys_and_no_others(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path / "results.json")
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    written = json.loads((tmp_path / "results.json").read_text())
    assert list(written) == [
        "tasks",
        "cost",
        "cross_domain",
        "baselines",
        "split",
        "acceptance",
        "accepted",
        "steps",
        "seconds",
    ]
    assert list(written["tasks"]) == ["left", "right", "alone"]
    for task in written["tasks"].values():
        assert list(task) == [
            "kind",
            "metric",
            "higher_is_better",
            "rows",
            "groups",
            "teacher",
            "student",
            "delta",
            "ci95",
            "agreement",
            "in_points",
            "mcnemar",
            "ece",
            "classes",
            "disagreements",
            "margin",
            "verdict",
            "rows_to_decide",
        ]
    assert list(written["cost"]) == ["student", "teachers", "each", "heads", "machine"]
    for network in ("student", "teachers"):
        assert list(written["cost"][network]) == [
            "parameters",
            "flops",
            "bytes",
            "latency_ms",
            "batch",
            "rows_per_second",
            "peak_memory",
        ]
    assert written["cost"]["heads"] == {}
    assert written["tasks"]["left"]["ci95"] == [pytest.approx(0.15), 0.65]
    assert written["tasks"]["left"]["verdict"] == "non-inferior"
    assert written["tasks"]["alone"]["verdict"] is None
    assert written["acceptance"] == {"rule": "interval", "margin": {"left": 1.0, "right": 1.0, "alone": 1.0}}
    assert written["tasks"]["alone"]["teacher"] is None
    assert (written["accepted"], written["steps"], written["seconds"]) == (True, 400, 61.5)
    assert written == evaluation.to_dict()


def test_one_inferior_task_is_enough_to_refuse(evaluation: Evaluation) -> None:
    assert evaluation.accepted
    strict = replace(evaluation, acceptance=evaluation.acceptance | {"right": 0.4})
    assert not strict.accepted
    assert strict.accepts("left")
    assert "✗ not accepted: inferior: right −0.70 (allowed −0.40)" in shown(strict)
    plain = replace(strict, rule="point")
    assert "✗ not accepted: right −0.70 (allowed −0.40)" in shown(plain)


def test_one_undecided_task_is_not_accepted_either(evaluation: Evaluation) -> None:
    strict = replace(evaluation, acceptance=evaluation.acceptance | {"right": 0.5})
    assert not strict.accepted
    text = shown(strict)
    # 1250 * ((1 + 1.2816 / 1.96) * 0.25 / 0.2)^2 in all
    assert "? not accepted yet: undecided: right (about 4,100 more rows would decide)" in text
    assert next(line for line in text.splitlines() if line.strip().startswith("right")).split()[-1] == "?"
    assert strict.to_dict()["tasks"]["right"]["verdict"] == "undecided"
    both = replace(strict, acceptance=strict.acceptance | {"left": -1.0})
    assert "✗ not accepted: inferior: left +0.40 (allowed +1.00); undecided: right (about" in shown(both, 120)
    assert replace(strict, acceptance={"left": 1.0, "right": 0.7, "alone": 1.0}, rule="point").accepted
    two = replace(strict, acceptance=strict.acceptance | {"left": -0.5})
    assert "undecided: left (about 21,000 more rows would decide), right (about 4,100 more)" in shown(two)
    on_it = replace(strict, acceptance=strict.acceptance | {"right": 0.7})
    assert "undecided: right (it lies on the margin)" in shown(on_it)


def test_acceptance_is_one_number_or_one_per_task() -> None:
    tasks = {"left": None, "right": None}
    assert allowed_drops(2, tasks) == {"left": 2.0, "right": 2.0}
    assert allowed_drops({"right": 0.5}, tasks) == {"left": 1.0, "right": 0.5}


def test_the_console_shows_every_figure(evaluation: Evaluation) -> None:
    text = shown(evaluation)
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "left accuracy 1,250 97.00 97.40 +0.40 +0.15 … +0.65 98.1 % ✓" in lines
    assert "right accuracy 1,250 97.00 96.30 −0.70 −0.95 … −0.45 98.1 % ✓" in lines
    assert "alone accuracy 1,250 – 97.00 – – – –" in lines
    assert "student 124,580 3.91 0.50 1.25 ms 2,500 12.0 MB" in lines
    assert "2 teachers 1,245,800 39.1 5.00 2.50 ms 1,000 not known" in lines
    assert "ratio 0.10× 0.10× 0.10× 0.50× 2.50× –" in lines
    assert "✓ accepted: no task lost more than 1 point, by its 95 % interval\n" in text


def test_a_narrow_console_shortens_the_metric_and_folds_the_interval_but_keeps_every_figure(
    evaluation: Evaluation,
) -> None:
    long = replace(evaluation, tasks={"left": result(metric="balanced_accuracy", rows=123_456)})
    text = shown(long, width=80)
    row = next(line for line in text.splitlines() if "left" in line)
    assert "…" in row.split()[1]
    assert " ".join(row.split()[2:]) == "123,456 97.00 97.40 +0.40 +0.15 … 98.1 % ✓"
    assert "+0.65" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_narrow_console_keeps_the_verdict_beside_long_names(evaluation: Evaluation) -> None:
    long = replace(
        evaluation,
        tasks={"attributes_of_it": result(ci95=(-66.67, -13.33))},
        acceptance={"attributes_of_it": 1.0},
    )
    lines = shown(long, width=80).splitlines()
    at = next(number for number, line in enumerate(lines) if "attributes_of_it" in line)
    assert " ".join(lines[at].split()).endswith("+0.40 −66.67 … 98.1 % ✗")
    assert lines[at + 1].strip() == "−13.33"


def test_what_goes_to_a_file_is_not_cut_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output().width == FILE_COLUMNS
    monkeypatch.setenv("COLUMNS", "70")
    assert output().width == 70


def test_baselines_stand_under_their_task_in_the_same_table(evaluation: Evaluation, tmp_path: Path) -> None:
    shared = {"left": BaselineScore(96.5, -0.5, (-1.25, 0.25))}
    said = replace(
        evaluation,
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
    assert "| · labels only |  |  |  | 96.50 | −0.50 | −1.25 … +0.25 |  |  |" in said.markdown()
    said.write(tmp_path / "results.json")
    assert baselines_in(json.loads((tmp_path / "results.json").read_text())) == said.baselines
    assert baselines_in({}) == {}


def test_costs_of_large_networks_fit_80_columns(evaluation: Evaluation) -> None:
    large = Cost(1_234_567_890, 987_654_000_000, 4_938_271_560, 12_345.67, 128, 12_345.6, 23_456_000_000)
    lines = shown(replace(evaluation, student_cost=large, teachers_cost=large), width=80).splitlines()
    costs = lines[next(number for number, line in enumerate(lines) if "rows/s" in line) :]
    assert max(map(len, costs[:5])) <= 80
    assert " ".join(costs[2].split()) == "student 1,234,567,890 987,654 4,938 12345.67 ms 12,346 23,456 MB"


def test_rows_that_a_teacher_may_have_seen_are_marked(evaluation: Evaluation) -> None:
    assert "may have seen" not in shown(evaluation)
    marked = replace(evaluation, hashed=frozenset({"right", "alone"}))
    text = shown(marked)
    assert "right *" in text
    assert "alone *" not in text  # it has no teacher that could have seen anything
    assert "the teacher may have seen them" in text
    assert "| right \\* |" in marked.markdown()


def test_markdown_holds_the_same_figures_as_the_console(evaluation: Evaluation) -> None:
    text = evaluation.markdown()
    assert "| left | accuracy | 1,250 | 97.00 | 97.40 | +0.40 | +0.15 … +0.65 | 98.1 % | ✓ |" in text
    assert "| ratio | 0.10× | 0.10× | 0.10× | 0.50× | 2.50× | – |" in text
    assert "**✓ accepted: no task lost more than 1 point, by its 95 % interval**" in text


def test_every_head_is_shown_with_its_share_of_the_student(evaluation: Evaluation) -> None:
    heads = {"left": HeadCost(12_458, 391_000), "right": HeadCost(6_229, 0), "alone": HeadCost(0, 0)}
    said = replace(evaluation, heads=heads)
    lines = [" ".join(line.split()) for line in shown(said, width=80).splitlines()]
    assert "head parameters share MFLOPs share" in lines
    assert "left 12,458 10.0 % 0.39 10.0 %" in lines
    assert "alone 0 0.0 % 0.00 0.0 %" in lines
    assert "all 3 18,687 15.0 % 0.39 10.0 %" in lines
    assert "| all 3 | 18,687 | 15.0 % | 0.39 | 10.0 % |" in said.markdown()
    assert "head" not in evaluation.markdown()
    written = said.to_dict()["cost"]["heads"]
    assert written["left"] == {
        "parameters": 12_458,
        "flops": 391_000,
        "parameters_share": pytest.approx(0.1),
        "flops_share": pytest.approx(0.1),
    }


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
    depth = result(
        delta,
        teacher,
        metric="rmse",
        higher_is_better=False,
        in_points=False,
        student=teacher - delta,
        ci95=(-0.002, 1000.0),
    )
    alone = replace(evaluation, tasks={"depth": depth}, acceptance={"depth": 0.5})
    text = shown(alone, 120)
    assert all(figure in text for figure in texts)
    assert "accepted: no task lost more than its margin" in text


def test_of_many_heads_the_largest_few_and_their_sum_are_shown(evaluation: Evaluation) -> None:
    heads = {f"task{index}": HeadCost(100 * index, 10) for index in range(40)}
    lines = [line.split() for line in shown(replace(evaluation, heads=heads)).splitlines()]
    rows = [line[0] for line in lines if line and line[0].startswith("task")]
    assert rows == ["task", "task39", "task38", "task37"]
    assert "| all 40 | 78,000 | 62.6 % |" in replace(evaluation, heads=heads).markdown()
    few = dict(list(heads.items())[:8])
    assert all(f"| {task} |" in replace(evaluation, heads=few).markdown() for task in few)
    one = replace(evaluation, heads={"left": HeadCost(100, 10)})
    assert "all 1" not in one.markdown()


def test_unusual_evaluations_are_told_in_words(evaluation: Evaluation) -> None:
    alone = replace(evaluation, tasks={"alone": result(None)}, teachers_cost=None)
    assert "nothing to judge: no task has a teacher" in shown(alone)
    assert "ratio" not in shown(alone)
    assert "delta" not in shown(alone)
    assert "| task | metric | rows | student |" in alone.markdown()
    single = replace(evaluation, tasks={"left": result(ci95=None)})
    assert "No interval where all rows belong to one group" in shown(single)
    lower = replace(evaluation, tasks={"left": result(higher_is_better=False)})
    assert "accuracy ↓" in shown(lower)
    limits = replace(evaluation, acceptance={"left": 1.0, "right": 2.0, "alone": 1.0})
    assert "no task lost more than its margin" in shown(limits)


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
    assert "and 10 more in config.json | labels alone |" in card
    assert evaluation.markdown().strip() in card
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
