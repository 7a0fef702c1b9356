from pathlib import Path

import pytest
import torch
import toys
from torch.nn import functional as F

from distill_mtl.balance import make_rule
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.term import HintPair, LossConfig, build_terms
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.load_teacher import load_teacher

ROWS = 12


def test_one_teacher_through_the_general_path_is_plain_distillation(tmp_path: Path) -> None:
    objective, teachers = _merge(
        tmp_path, {"a": toys.classification(4)}, loss_config=LossConfig(temperature=3.0)
    )
    batch = _batch({"a": [0] * ROWS})
    losses = _losses(objective, teachers, batch)
    logits = objective.student(batch.images)["a"]
    taught = teachers.teachers["a"](batch.images).logits
    plain = 9 * F.kl_div((logits / 3).log_softmax(1), (taught / 3).softmax(1), reduction="batchmean")
    assert losses["a"].item() == pytest.approx(plain.item(), rel=1e-5)


def test_labelled_rows_are_supervised_and_the_others_taught(tmp_path: Path) -> None:
    objective, teachers = _merge(tmp_path, {"a": toys.classification(4)})
    batch = _batch({"a": [1] * 5 + [0] * 7})
    _, _, terms = _run(objective, teachers, batch)
    logits = objective.student(batch.images)["a"]
    expected = F.cross_entropy(logits[:5], batch.labels["a"][:5])
    assert terms["a"]["supervised"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert set(terms["a"]) == {"supervised", "soft_targets"}


def test_labels_of_unlabelled_rows_are_never_read(tmp_path: Path) -> None:
    objective, teachers = _merge(tmp_path, {"a": toys.classification(4)})
    batch = _batch({"a": [1] * 5 + [0] * 7})
    before = _losses(objective, teachers, batch)["a"]
    batch.labels["a"][5:] = 3
    assert torch.equal(before, _losses(objective, teachers, batch)["a"])


def test_teachers_see_only_the_rows_they_are_asked_about(tmp_path: Path) -> None:
    _, teachers = _merge(tmp_path, {"a": toys.classification(4), "b": toys.classification(3)})
    batch = _batch({"a": [1] * 5 + [0] * 7, "b": [1] * ROWS})
    targets = teachers(batch)
    assert targets["a"].rows.tolist() == list(range(5, ROWS))
    assert torch.allclose(
        targets["a"].output.logits, teachers.teachers["a"](batch.images[5:]).logits, atol=1e-6
    )
    assert "b" not in targets
    teachers.on = "all"
    assert all(len(target.rows) == ROWS for target in teachers(batch).values())


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_losses_do_not_depend_on_how_the_batch_is_split(tmp_path: Path, cut: int) -> None:
    """Two micro-batches with uneven labels give the gradient of the whole batch, hints included."""
    kinds = {"a": toys.classification(4), "b": toys.segmentation(2)}
    objective, teachers = _merge(tmp_path, kinds, hints=True)
    batch = _batch({"a": [1] * 3 + [0] * 9, "b": [0] * 3 + [1] * 9}, dense=["b"])
    whole = _gradients(objective, teachers, [batch])
    parts = _gradients(objective, teachers, [_rows(batch, slice(0, cut)), _rows(batch, slice(cut, ROWS))])
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        assert torch.allclose(gradient, parts[name], atol=1e-6), name


def test_a_task_without_rows_is_absent_and_changes_nothing_else(tmp_path: Path) -> None:
    kinds = {"a": toys.classification(4), "b": toys.classification(3)}
    objective, teachers = _merge(tmp_path, kinds)
    teachers.names = ("a",)
    batch = _batch({"a": [1] * ROWS, "b": [0] * ROWS})
    losses = _losses(objective, teachers, batch)
    assert list(losses) == ["a"]
    assert torch.isfinite(losses["a"])
    _gradients(objective, teachers, [batch])
    assert all(parameter.grad is None for parameter in objective.task_parameters("b"))


def test_a_label_without_weight_leaves_its_rows_silent(tmp_path: Path) -> None:
    kinds = {"a": toys.classification(4)}
    objective, teachers = _merge(tmp_path, kinds, loss_config=LossConfig({"supervised": 0}))
    assert _losses(objective, teachers, _batch({"a": [1] * ROWS})) == {}


def test_a_teacher_says_nothing_about_classes_it_does_not_know(tmp_path: Path) -> None:
    """The student's logit of an unknown class gets no gradient, and the known ones are compared among themselves."""
    kinds = {"a": toys.classification(4)}
    objective, teachers = _merge(tmp_path, kinds, loss_config=LossConfig())
    teachers.known["a"] = (0, 2, 3)
    batch = _batch({"a": [0] * ROWS})
    _gradients(objective, teachers, [batch])
    bias = objective.student.heads["a"].get_parameter("linear.bias")
    assert bias.grad is not None
    assert bias.grad[1] == 0
    assert bool((bias.grad[[0, 2, 3]] != 0).all())


def test_hints_train_adapters_that_the_student_does_not_keep(tmp_path: Path) -> None:
    objective, teachers = _merge(tmp_path, {"a": toys.classification(4)}, hints=True)
    _, _, terms = _run(objective, teachers, _batch({"a": [0] * ROWS}))
    assert terms["a"]["hint"].item() > 0
    _gradients(objective, teachers, [_batch({"a": [0] * ROWS})])
    assert all(parameter.grad is not None for parameter in objective.terms.parameters())
    assert not any("adapter" in name for name in objective.student.state_dict())


def test_teachers_are_bit_identical_after_training_steps(tmp_path: Path) -> None:
    objective, teachers = _merge(tmp_path, {"a": toys.classification(4)}, hints=True)
    before = {name: value.clone() for name, value in teachers.teachers["a"].state_dict().items()}
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.1)
    for _ in range(3):
        _gradients(objective, teachers, [_batch({"a": [0] * ROWS})])
        optimizer.step()
    after = teachers.teachers["a"].state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in teachers.teachers["a"].parameters())


def _merge(
    folder: Path, kinds: dict[str, TaskKind], loss_config: LossConfig | None = None, hints: bool = False
) -> tuple[Objective, LiveTeachers]:
    """A toy student under toy teachers of every task."""
    student = toys.toy_student(kinds)
    teachers = {}
    for index, (task, kind) in enumerate(kinds.items()):
        toys.toy_teacher_folder(folder / task, task, kind, seed=index + 1)
        teachers[task] = load_teacher(TeacherSection(path=str(folder / task)), task=task, layers=[None])
    pair = HintPair("second", "second")
    loss_config = loss_config or LossConfig(hints=[pair] if hints else [])
    configs = dict.fromkeys(kinds, loss_config)
    shapes = {task: teacher.card.shapes for task, teacher in teachers.items()}
    terms = build_terms(configs, student.trunk.shapes, shapes)
    rule = make_rule("uniform", list(kinds))
    return Objective(student, configs, terms, rule), LiveTeachers(teachers)


def _batch(labelled: dict[str, list[int]], dense: list[str] | None = None) -> Batch:
    generator = torch.Generator().manual_seed(5)
    shape = (ROWS, toys.SIZE, toys.SIZE)
    return Batch(
        images=torch.rand(ROWS, 3, toys.SIZE, toys.SIZE, generator=generator),
        labels={
            task: torch.randint(0, 2, shape if task in (dense or []) else (ROWS,), generator=generator)
            for task in labelled
        },
        labelled={task: torch.tensor(rows, dtype=torch.bool) for task, rows in labelled.items()},
        keys=[str(row) for row in range(ROWS)],
        source=torch.zeros(ROWS, dtype=torch.int64),
    )


def _rows(batch: Batch, rows: slice) -> Batch:
    return Batch(
        images=batch.images[rows],
        labels={task: label[rows] for task, label in batch.labels.items()},
        labelled={task: mask[rows] for task, mask in batch.labelled.items()},
        keys=batch.keys[rows],
        source=batch.source[rows],
    )


def _run(objective: Objective, teachers: LiveTeachers, batch: Batch):
    counts = count_rows([batch], [teachers.rows(batch)], objective.loss_configs)
    return objective(batch.images, batch, teachers(batch), counts)


def _losses(objective: Objective, teachers: LiveTeachers, batch: Batch) -> dict[str, torch.Tensor]:
    losses, _, _ = _run(objective, teachers, batch)
    return losses


def _gradients(objective: Objective, teachers: LiveTeachers, batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Gradients of a step over micro-batches, averaged over them as Accelerate does."""
    objective.zero_grad()
    counts = count_rows(batches, [teachers.rows(batch) for batch in batches], objective.loss_configs)
    for micro, batch in enumerate(batches):
        losses, shared, _ = objective(batch.images, batch, teachers(batch), counts, micro)
        objective.rule.backward(losses, shared, backward=lambda loss: (loss / len(batches)).backward())
    return {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
