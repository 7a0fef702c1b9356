from pathlib import Path

import torch

from distill_mtl import load_recipe
from distill_mtl.distillation.objective import Objective
from distill_mtl.training.parts import build
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer

State = dict[str, torch.Tensor]
FITNETS = (
    "schedule=fitnets",
    "schedule.0.until=3",
    "student.args={norm: true}",
    "training.teachers_on=all",
    *(f"tasks.{task}.hints=[{{student: first, teacher: first}}]" for task in ("hue", "shape")),
)


def test_what_a_stage_does_not_train_stays_to_the_bit_until_the_step_at_which_it_ends(recipe: Path) -> None:
    states, terms = _run(recipe, *FITNETS)
    parts = ("trunk.model.first", "trunk.model.second", "heads", "adapters")
    for step in range(6):
        moved = _moved(states[step], states[step + 1])
        found = {part for part in parts if any(part in name for name in moved)}
        assert found == ({"trunk.model.first", "adapters"} if step < 3 else set(parts)), step
        assert terms[step] == ({"hint"} if step < 3 else {"supervised", "soft_targets", "hint"})
    statistics = {name for name in states[0] if "running_mean" in name or "num_batches" in name}
    still = {name for name in statistics if torch.equal(states[0][name], states[3][name])}
    assert still == {name for name in statistics if "second" in name}
    assert len(still) == 2


def test_a_trunk_that_does_not_train_keeps_its_statistics_while_heads_learn(recipe: Path) -> None:
    states, _ = _run(recipe, "schedule=[{until: 3, train: [heads]}, {}]", "student.args={norm: true}")
    assert {name.split(".")[1] for name in _moved(states[0], states[3])} == {"heads"}
    assert any("trunk" in name and "running_mean" in name for name in _moved(states[3], states[4]))


def test_without_a_hints_weight_its_adapters_wait(recipe: Path) -> None:
    states, terms = _run(recipe, "schedule=[{until: 2}, {until: 4, weights: {hint: 0}}, {}]")
    moved = [any("adapters" in name for name in _moved(states[step], states[step + 1])) for step in range(6)]
    assert moved == [True, True, False, False, True, True]
    assert ["hint" in named for named in terms] == moved


def test_a_temperature_changes_at_its_step(recipe: Path) -> None:
    changing, _ = _run(recipe, "schedule=[{until: 2, temperature: 1}, {}]")
    cold, _ = _run(recipe, "tasks.hue.temperature=1", "tasks.shape.temperature=1")
    assert not _moved(changing[2], cold[2])
    assert _moved(changing[3], cold[3])


def _run(recipe: Path, *overrides: str) -> tuple[list[State], list[set[str]]]:
    """The objective's state before each of six steps and after the last, and the terms of each step."""
    parts = build(load_recipe(recipe, overrides))
    objective = Objective(parts.student, parts.loss_configs, parts.terms, parts.rule)
    providers = parts.providers(parts.targets(), parts.student)
    accelerator = start_accelerator(parts.recipe.training)
    trainer = Trainer(accelerator, objective, providers, parts.recipe, schedule=parts.schedule)
    states, terms = [_state(objective)], []
    for step, batch in enumerate(parts.sources.stream(steps=6)):
        report = trainer.step(step, [batch])
        named = {term for of_task in report.values(accelerator).values() for term in of_task}
        terms.append(named - {"total", "weight"})
        states.append(_state(objective))
    return states, terms


def _state(objective: Objective) -> State:
    return {name: value.clone() for name, value in objective.state_dict().items()}


def _moved(before: State, after: State) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}
