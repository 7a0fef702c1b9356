import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import toy_world
from rich.console import Console

from distill_mtl import distill, evaluate, load_recipe, load_student
from distill_mtl.balance import Shared
from distill_mtl.errors import UserError
from distill_mtl.evaluation import (
    Comparison,
    Evaluation,
    EvaluationSet,
    delta_on,
    references,
    student_scores,
)
from distill_mtl.training.parts import build

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def recipe(toy_run: toy_world.Run) -> Path:
    return toy_run.recipe


@pytest.fixture(scope="module")
def finished(toy_run: toy_world.Run) -> tuple[Path, Evaluation]:
    return toy_run.out, toy_run.evaluation


def test_a_run_leaves_the_folder_that_other_tools_read(finished: tuple[Path, Evaluation]) -> None:
    out, _ = finished
    assert sorted(path.name for path in out.iterdir()) == [
        "checkpoints",
        "environment.json",
        "examples",
        "metrics.jsonl",
        "pictures.png",
        "recipe.resolved.yaml",
        "report.html",
        "report.md",
        "results.json",
        "student",
        "teachers.json",
    ]
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        "step_00000003",
        "step_00000006",
    ]
    assert sorted(path.name for path in (out / "student").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_results_have_the_promised_form(finished: tuple[Path, Evaluation]) -> None:
    out, evaluation = finished
    results = json.loads((out / "results.json").read_text())
    assert results == json.loads(evaluation.model_dump_json())
    assert set(results) == {
        *("format", "version", "tasks", "cost", "cross_domain", "baselines", "split", "hashed"),
        *("acceptance", "accepted", "distill_mtl", "training_rows", "steps", "seconds"),
    }
    assert set(results["tasks"]["hue"]) == {
        *("kind", "metric", "higher_is_better", "rows", "teacher", "student", "delta", "ci95", "agreement"),
        *("against", "groups", "in_points", "margin", "verdict", "rows_to_decide"),
        *("mcnemar", "ece", "classes", "unscored", "unmeasured", "disagreements"),
        *("slices", "resampled", "drawn_from"),
    }
    assert set(results["cost"]["student"]) >= {
        "parameters",
        "flops",
        "bytes",
        "latency_ms",
        "rows_per_second",
    }
    assert set(results["cost"]["each"]) == {"hue", "shape"}
    assert results["cross_domain"]["hue"]["shape"]["rows"] == toy_world.ROWS
    assert 0 <= results["cross_domain"]["shape"]["hue"]["agreement"] <= 1
    trained_on = results["training_rows"]["hue"]
    assert trained_on["rows"] == toy_world.ROWS
    assert trained_on["ci95"][0] <= trained_on["score"] <= trained_on["ci95"][1]
    assert results["steps"] == 6
    assert results["tasks"]["shape"]["rows"] == toy_world.ROWS


def test_every_logged_line_has_terms_weights_cosines_and_norm(finished: tuple[Path, Evaluation]) -> None:
    out, _ = finished
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert set(line) >= {"step", "seconds", "rows_per_second", "lr", "tasks", "cosines", "norm"}
        for task in ("hue", "shape"):
            terms = line["tasks"][task]
            assert set(terms) == {"total", "supervised", "soft_targets", "hint", "weight"}
            parts = terms["supervised"] + terms["soft_targets"] + terms["hint"]
            assert terms["total"] == pytest.approx(parts, rel=1e-4)
        assert -1 <= line["cosines"]["hue/shape"] <= 1
        assert set(line["lengths"]) == {"hue", "shape"}
        assert line["gradient_norm"] > 0
        assert 0 <= line["clipped"] <= 1
        assert 0 <= line["waiting"] <= 1


def test_looking_at_validation_rows_while_training_changes_no_weight(
    recipe: Path, finished: tuple[Path, Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(student_scores, "_FEWEST", 1)
    monkeypatch.setattr(student_scores, "_COST", 10.0)
    distill(recipe, out=tmp_path / "run", console=QUIET)
    assert_equal_weights(finished[0], tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    looked = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert set(looked) == {4, 5, 6}
    assert all(set(scores) == {"hue", "shape"} for scores in looked.values())


def test_teachers_are_recorded_as_loaded(finished: tuple[Path, Evaluation]) -> None:
    teachers = json.loads((finished[0] / "teachers.json").read_text())
    assert set(teachers["hue"]) == {
        "file",
        "files",
        "sha256",
        "classes",
        "outputs",
        "input",
        "score",
        "precision",
    }
    assert len(teachers["hue"]["sha256"]) == 64
    assert teachers["hue"]["classes"] == ["class0", "class1", "class2"]


def test_the_student_loads_and_answers_for_every_task(finished: tuple[Path, Evaluation]) -> None:
    student = load_student(finished[0] / "student")
    assert not student.training
    answers = student(torch.rand(2, 3, 20, 24))
    assert answers["hue"]["probabilities"].shape == (2, 3)
    assert answers["shape"]["label"].shape == (2, 20, 24)


def test_the_student_keeps_what_evaluation_showed_of_a_picture(finished: tuple[Path, Evaluation]) -> None:
    config = json.loads((finished[0] / "student" / "config.json").read_text())
    assert config["extra"]["resize"] == "crop"


def test_the_model_card_holds_the_table(finished: tuple[Path, Evaluation]) -> None:
    out, evaluation = finished
    card = (out / "student" / "README.md").read_text()
    assert f"{evaluation.tasks['hue'].student:.2f}" in card


def test_evaluating_again_gives_the_same_scores(finished: tuple[Path, Evaluation]) -> None:
    out, before = finished
    again = evaluate(out, console=QUIET)
    assert again.tasks == before.tasks


def test_the_resolved_recipe_repeats_the_run(recipe: Path, tmp_path: Path) -> None:
    distill(recipe, out=tmp_path / "run", console=QUIET)
    distill(tmp_path / "run" / "recipe.resolved.yaml", out=tmp_path / "again", console=QUIET)
    assert_equal_weights(tmp_path / "run", tmp_path / "again")


def test_resuming_a_finished_run_changes_nothing(
    recipe: Path, finished: tuple[Path, Evaluation], tmp_path: Path
) -> None:
    out, before = tmp_path / "run", finished[1]
    shutil.copytree(finished[0], out)
    again = distill(recipe, out=out, resume=True, console=QUIET)
    assert again.tasks == before.tasks
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 3


def test_resuming_with_a_changed_teacher_is_refused(recipe: Path, tmp_path: Path) -> None:
    import toys

    mine = toy_world.build(tmp_path)
    distill(mine, out=tmp_path / "run", console=QUIET)
    toys.toy_teacher_folder(tmp_path / "teachers" / "hue", "hue", toys.classification(3), seed=9)
    with pytest.raises(UserError, match="started with other teachers"):
        distill(mine, out=tmp_path / "run", resume=True, console=QUIET)


def test_a_second_run_does_not_overwrite_the_first(recipe: Path, finished: tuple[Path, Evaluation]) -> None:
    with pytest.raises(UserError, match="--overwrite"):
        distill(recipe, out=finished[0], console=QUIET)


@pytest.mark.parametrize(
    "override",
    [
        "training.teachers_on=all",
        "training.teachers_on=none",
        "training.select=best",
        "training.ema=0.5",
        "training.accumulate=2",
        *(f"balance={rule}" for rule in ("uncertainty", "gradnorm", "geometric", "mgda", "mgda_ub")),
        'balance={method: mgda_ub, options: {prefer: ["shape >= 2 * hue"]}}',
        "balance={method: fixed, options: {weights: {hue: 1, shape: 2}}}",
        "balance={method: mgda_ub, options: {normalize: l2}}",
        "tasks.hue.hints=[]",
        "tasks.hue.hints=[{student: first, teacher: second}, {student: second, teacher: pooled}]",
        "tasks.hue.weights.supervised=0",
        "student.init=random",
        "data={pool: {shards: FOLDER/pool-train.tar}}",
        "training.stream={mode: alternate, phase: 2}",
        "data.hue.limit=6",
    ],
)
def test_every_mode_runs_to_a_table(recipe: Path, tmp_path: Path, override: str) -> None:
    changed = load_recipe(recipe, [override.replace("FOLDER", str(recipe.parent))])
    evaluation = distill(changed, out=tmp_path / "run", console=QUIET)
    assert set(evaluation.tasks) == {"hue", "shape"}
    assert all(torch.isfinite(weight).all() for weight in _weights(tmp_path / "run").values())


def test_a_run_begins_with_what_batchnorm_makes_of_alternate_batches(recipe: Path, tmp_path: Path) -> None:
    norms = "student={model: test_resnet, input_size: 16, init: random}"
    changed = load_recipe(recipe, [norms, "training.stream=alternate", "training.steps=1"])
    console = Console(file=io.StringIO(), width=1000)
    distill(changed, out=tmp_path / "run", console=console)
    assert "training.stream is alternate, and the student has BatchNorm" in console.file.getvalue()


def test_the_share_of_harmed_tasks_is_logged_on_request(recipe: Path, tmp_path: Path) -> None:
    distill(load_recipe(recipe, ["balance.harm_every=3"]), out=tmp_path / "run", console=QUIET)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line.get("harmed") is not None for line in lines} == {
        2: False,
        3: True,
        4: False,
        6: True,
    }
    assert all(0 <= line["harmed"] <= 1 for line in lines if "harmed" in line)


def test_a_process_may_train_again_in_another_precision(recipe: Path, tmp_path: Path) -> None:
    for precision, half in (("fp32", False), ("bf16", True)):
        wanted = load_recipe(recipe, [f"training.precision={precision}", "training.steps=1"])
        with seen_dtypes() as dtypes:
            distill(wanted, out=tmp_path / precision, console=QUIET)
        assert (torch.bfloat16 in dtypes) == half


@contextmanager
def seen_dtypes() -> Iterator[set[torch.dtype]]:
    """Types of the features at which rules cut, in the block."""
    seen: set[torch.dtype] = set()
    with pytest.MonkeyPatch.context() as patch:
        before = Shared.__init__

        def noting(self: Shared, features: Any, tasks: Any) -> None:
            before(self, features, tasks)
            seen.update(feature.dtype for feature in self.features)

        patch.setattr(Shared, "__init__", noting)
        yield seen


def test_half_precision_on_the_cpu_is_refused(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training.precision: fp16"):
        distill(load_recipe(recipe, ["training.precision=fp16"]), out=tmp_path / "run", console=QUIET)


def test_mgda_ub_without_cover_is_refused_and_auto_falls_back(recipe: Path, tmp_path: Path) -> None:
    named = load_recipe(recipe, ["balance=mgda_ub", "training.teachers_on=none"])
    with pytest.raises(UserError, match=r"(?s)mgda_ub needs a label or a teacher.*hue, shape"):
        distill(named, out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run").exists()
    console = Console(record=True, file=io.StringIO(), width=200)
    distill(load_recipe(recipe, ["training.teachers_on=none"]), out=tmp_path / "run", console=console)
    assert "balance: uniform (auto: some rows have neither" in console.export_text()


def test_select_best_takes_the_checkpoint_with_the_highest_mean_delta(recipe: Path, tmp_path: Path) -> None:
    every_step = ["training.checkpoint_every=1", "training.keep=9", "optimizer.lr=0.3"]
    distill(load_recipe(recipe, [*every_step, "training.select=best"]), out=tmp_path / "best", console=QUIET)
    distill(load_recipe(recipe, every_step), out=tmp_path / "last", console=QUIET)
    parts = build(load_recipe(recipe, every_step))
    view = EvaluationSet(parts.sources, "validation")
    scores = references(parts.teachers, parts.kinds, view)
    students, deltas = [], []
    for path in sorted((tmp_path / "last" / "checkpoints").iterdir()):
        objective = torch.load(path / "state.pt", weights_only=True)["objective"]
        state = {
            name.removeprefix("student."): w for name, w in objective.items() if name.startswith("student.")
        }
        parts.student.load_state_dict(state)
        students.append(state)
        deltas.append(sum(delta_on(Comparison(parts.student, {}, parts.kinds, view), scores).values()))
    assert len(students) == 6
    chosen = students[max(range(6), key=deltas.__getitem__)]
    saved = _weights(tmp_path / "best")
    assert all(torch.equal(weight, chosen[name]) for name, weight in saved.items())
    assert max(deltas) > deltas[-1], "the last weights are the best: this says nothing about choosing"


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_good_checkpoints(
    recipe: Path, tmp_path: Path
) -> None:
    ruin = load_recipe(recipe, ["optimizer.lr=1000", "training.clip=null", "training.log_every=1"])
    with pytest.raises(UserError, match=r"the loss of \w+ is \S+ at step \d"):
        distill(ruin, out=tmp_path / "run", console=QUIET)
    assert not (tmp_path / "run" / "student").exists()


def test_what_does_not_train_may_change_on_resume(recipe: Path, tmp_path: Path) -> None:
    distill(recipe, out=tmp_path / "run", console=QUIET)
    changed = ["training.log_every=1", "training.keep=1", "acceptance=0.5", "data.hue.corrupt=skip"]
    again = distill(load_recipe(recipe, changed), out=tmp_path / "run", resume=True, console=QUIET)
    assert again.acceptance.margin == {"hue": 0.5, "shape": 0.5}


def test_overwriting_deletes_the_run_and_nothing_else(recipe: Path, tmp_path: Path) -> None:
    distill(recipe, out=tmp_path / "run", console=QUIET)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    distill(load_recipe(recipe, ["seed=3"]), out=tmp_path / "run", overwrite=True, console=QUIET)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_resuming_where_nothing_is_says_so(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"typo .*no run.*--resume"):
        distill(recipe, out=tmp_path / "typo", resume=True, console=QUIET)


def test_a_task_that_nobody_can_measure_is_refused_before_training(recipe: Path, tmp_path: Path) -> None:
    lines = recipe.read_text().splitlines(keepends=True)
    bare = tmp_path / "bare.yaml"
    bare.write_text("".join(line for line in lines if "hue-train.tar" not in line))
    silent = load_recipe(bare)
    with pytest.raises(UserError, match="no source has test rows labelled for hue"):
        distill(silent, out=tmp_path / "run", console=QUIET)


def test_a_corrupt_row_stops_with_a_checkpoint_and_can_be_skipped_on_resume(tmp_path: Path) -> None:
    recipe = toy_world.build(tmp_path)
    labels_only = [
        "training.steps=30",
        "training.teachers_on=none",
    ]  # nothing is calibrated, so training reads first
    first = next(iter(build(load_recipe(recipe, labels_only)).sources.stream(steps=1))).keys
    later = next(row for row in range(toy_world.ROWS) if f"hue/hue-train/hue-train-{row:03d}" not in first)
    toy_world.corrupt(tmp_path / "hue-train.tar", later)
    with pytest.raises(UserError, match=rf"(?s)hue-train-{later:03d}.*cannot be decoded.*--resume"):
        distill(load_recipe(recipe, labels_only), out=tmp_path / "run", console=QUIET)
    assert list((tmp_path / "run" / "checkpoints").glob("step_*"))
    console = Console(record=True, file=io.StringIO(), width=200)
    skipping = load_recipe(recipe, [*labels_only, "data.hue.corrupt=skip"])
    distill(skipping, out=tmp_path / "run", resume=True, console=console)
    assert "1 corrupt rows of data.hue were replaced" in console.export_text()


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_student(out / "student").student.state_dict()


def assert_equal_weights(one: Path, other: Path) -> None:
    ours, theirs = _weights(one), _weights(other)
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
