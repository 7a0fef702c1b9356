from pathlib import Path

import pytest
import torch
import toys

from distill_mtl import load_recipe
from distill_mtl.balance import make_rule
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import Counts
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.term import LossConfig, build_terms
from distill_mtl.errors import RecipeError
from distill_mtl.recipe.schema import AsynchronousSection
from distill_mtl.training.asynchronous import Asynchronous
from distill_mtl.training.parts import build
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer

KINDS = {"a": toys.classification(3), "b": toys.classification(2)}
ROWS = [(8, 0), (8, 2), (0, 0), (4, 4), (1, 9), (0, 5), (12, 12), (3, 0)]
"""Rows of a and of b in each step; those of b are rows of their own."""


def test_parts_step_exactly_when_their_own_counts_say() -> None:
    configs = dict.fromkeys(KINDS, LossConfig())
    objective = Objective(
        toys.toy_student(KINDS), configs, build_terms(configs, {}, {}), make_rule("uniform", [])
    )
    subject = Asynchronous(objective, AsynchronousSection(trunk=20, heads={"a": 10, "b": 6}))
    stepped = []
    for rows in ROWS:
        _set_gradients(objective, rows)
        subject.hold_back(_counts(*rows))
        stepped.append({part for part, named in _parts(objective).items() if named[0].grad is not None})
    assert stepped == [
        set(),
        {"a"},  # 16 of a
        set(),
        {"trunk", "b"},  # 26 rows in all; 6 of b
        {"b"},  # 9
        set(),
        {"trunk", "a", "b"},  # 39 rows; 17 of a; 17 of b
        set(),
    ]
    assert subject.rows == {"trunk": 3, "heads.a": 3, "heads.b": 0}


def test_a_part_steps_with_the_mean_over_the_rows_that_it_waited_for() -> None:
    configs = dict.fromkeys(KINDS, LossConfig())
    objective = Objective(
        toys.toy_student(KINDS), configs, build_terms(configs, {}, {}), make_rule("uniform", [])
    )
    subject = Asynchronous(objective, AsynchronousSection(trunk=16, heads=99))
    parameter = objective.student.trunk.model.first[0].weight
    for value, rows in ((1.0, 4), (5.0, 12)):
        parameter.grad = torch.full_like(parameter, value)
        subject.hold_back(_counts(rows, 0))
    assert parameter.grad is not None
    assert torch.equal(parameter.grad, torch.full_like(parameter, (1.0 * 4 + 5.0 * 12) / 16))
    assert subject.rows["heads.a"] == 16


def test_waiting_leaves_weights_and_momentum_alone(recipe: Path) -> None:
    trainer, batch = _trainer(
        recipe, "training.asynchronous={trunk: 24, heads: {hue: 12, shape: 36}}", "training.teachers_on=all"
    )
    moved, steps_of_trunk = [], []
    for number in range(6):
        before = {name: value.detach().clone() for name, value in trainer.objective.named_parameters()}
        trainer.step(number, [batch])
        now = trainer.objective.named_parameters()
        changed = {name for name, value in now if not torch.equal(value, before[name])}
        moved.append({part for part in ("trunk", "heads.hue", "heads.shape") if _any(changed, part)})
        moved[-1] |= {f"{part} adapters" for part in ("hue", "shape") if _any(changed, f"terms.{part}")}
        state = trainer.plain_optimizer.state[trainer.objective.student.trunk.model.first[0].weight]
        steps_of_trunk.append(int(state.get("step", 0)))
    every, second, third = {"heads.hue", "hue adapters"}, {"trunk"}, {"heads.shape", "shape adapters"}
    assert moved == [every, every | second, every | third, every | second, every, every | second | third]
    assert steps_of_trunk == [0, 1, 1, 2, 2, 3]


def test_thresholds_within_a_batch_step_as_if_there_were_none(recipe: Path) -> None:
    plain, batch = _trainer(recipe, "balance=uniform")
    prompt, _ = _trainer(recipe, "balance=uniform", "training.asynchronous={trunk: 1, heads: 1}")
    for number in range(3):
        plain.step(number, [batch])
        prompt.step(number, [batch])
    ours, theirs = plain.objective.state_dict(), prompt.objective.state_dict()
    assert all(torch.allclose(value, theirs[name], atol=1e-6) for name, value in ours.items())


def test_rules_that_compare_gradients_are_refused_and_auto_takes_another(recipe: Path) -> None:
    thresholds = "training.asynchronous={trunk: 24, heads: 12}"
    with pytest.raises(RecipeError, match=r"mgda_ub .*training.asynchronous.*uniform, fixed"):
        build(load_recipe(recipe, [thresholds, "balance=mgda_ub"]))
    with pytest.raises(RecipeError, match=r"balance.method: mgda "):
        build(load_recipe(recipe, [thresholds, "balance=mgda"]))
    assert "uniform (auto: with training.asynchronous" in build(load_recipe(recipe, [thresholds])).balance
    for rule in ("uncertainty", "gradnorm", "geometric"):
        build(load_recipe(recipe, [thresholds, f"balance={rule}"]))


def _parts(objective: Objective) -> dict[str, list[torch.nn.Parameter]]:
    heads = {task: objective.task_parameters(task) for task in KINDS}
    return {"trunk": list(objective.student.trunk.parameters()), **heads}


def _set_gradients(objective: Objective, rows: tuple[int, int]) -> None:
    """As a step leaves them: none where no row had anything to say."""
    of_part = {"trunk": sum(rows), "a": rows[0], "b": rows[1]}
    for part, parameters in _parts(objective).items():
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter) if of_part[part] else None


def _counts(a: int, b: int) -> Counts:
    rows = {"a": a, "b": b}
    return Counts(rows, {"a": 0, "b": 0}, rows, a + b, [frozenset(t for t in rows if rows[t])], 1)


def _any(changed: set[str], part: str) -> bool:
    return any(f"{part}." in name for name in changed)


def _trainer(recipe: Path, *overrides: str) -> tuple[Trainer, Batch]:
    parts = build(load_recipe(recipe, overrides))
    objective = Objective(parts.student, parts.loss_configs, parts.terms, parts.rule)
    providers = parts.providers(parts.targets(), parts.student)
    trainer = Trainer(
        start_accelerator(parts.recipe.training), objective, providers, parts.recipe, schedule=parts.schedule
    )
    return trainer, next(iter(parts.sources.stream(steps=1)))
