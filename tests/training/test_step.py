from pathlib import Path

import torch

from distill_mtl import load_recipe
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.objective import Objective
from distill_mtl.targets.combined import TargetProviders
from distill_mtl.training.parts import build
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer


def test_a_step_in_which_no_row_says_anything_changes_nothing(recipe: Path) -> None:
    trainer, batch = _trainer(recipe, "training.teachers_on=none")
    trainer.step(0, [batch])  # momentum that a careless next step would go on with
    before = _parameters(trainer)
    report = trainer.step(1, [_without_labels(batch, "hue", "shape")])
    assert report.values(trainer.accelerator) == {}
    assert all(torch.equal(value, before[name]) for name, value in _parameters(trainer).items())


def test_a_task_absent_from_a_step_keeps_its_head_while_the_others_move(recipe: Path) -> None:
    trainer, batch = _trainer(recipe, "training.teachers_on=none")
    trainer.step(0, [batch])
    before = _parameters(trainer)
    trainer.step(1, [_without_labels(batch, "hue")])
    moved = {name for name, value in _parameters(trainer).items() if not torch.equal(value, before[name])}
    assert any("heads.shape" in name for name in moved)
    assert not any("heads.hue" in name for name in moved)


def test_adapters_without_a_taught_row_stay_as_they_are(recipe: Path) -> None:
    trainer, batch = _trainer(recipe)
    trainer.step(0, [batch])
    before = _parameters(trainer)
    everything = {task: torch.ones(len(batch), dtype=torch.bool) for task in batch.labelled}
    labels = {"hue": batch.labels["hue"].clamp(0, 2), "shape": torch.zeros_like(batch.labels["shape"])}
    trainer.step(1, [Batch(batch.images, labels, everything, batch.keys, batch.source)])
    moved = {name for name, value in _parameters(trainer).items() if not torch.equal(value, before[name])}
    assert any("heads.hue" in name for name in moved)
    assert not any("adapters" in name for name in moved)


def _trainer(recipe: Path, *overrides: str) -> tuple[Trainer, Batch]:
    parts = build(load_recipe(recipe, overrides))
    objective = Objective(parts.student, parts.loss_configs, parts.terms, parts.rule)
    accelerator = start_accelerator(parts.recipe.training)
    providers = TargetProviders(parts.targets())
    trainer = Trainer(accelerator, objective, providers, parts.recipe, schedule=parts.schedule)
    return trainer, next(iter(parts.sources.stream(steps=1)))


def _without_labels(batch: Batch, *tasks: str) -> Batch:
    labelled = {task: rows & (task not in tasks) for task, rows in batch.labelled.items()}
    return Batch(batch.images, batch.labels, labelled, batch.keys, batch.source)


def _parameters(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.objective.named_parameters()}
