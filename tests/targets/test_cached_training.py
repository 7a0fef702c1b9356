"""Training from the cache is training with live teachers, to fp16, without a teacher."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cache_world
import forked
import pytest
import torch
import toy_world
import toys
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from distill_mtl import distill, load_recipe
from distill_mtl.checks.before_training import run_check, try_one_batch
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.term import calibrate_terms
from distill_mtl.errors import CacheError, UserError
from distill_mtl.jobs.cache import write_cache
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.parts import Parts
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer

pytestmark = pytest.mark.usefixtures("short_runs")
# Maps and pooled features, one layer as both, every row taught, crops and flips in two views of three.
HINTS = (
    "tasks.hue.hints=[{form: map}, {student: first, teacher: first, form: pooled}]",
    "tasks.shape.hints=[{form: map}, {student: first, teacher: second, form: pooled}]",
)
ALL = (*HINTS, "targets.views=3", "training.teachers_on=all")
SLOW = "optimizer.lr=1e-3"  # of two ways that differ by rounding alone
STEPS = 30  # more than two epochs of 160 rows, 12 a step


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cache_world.cached(tmp_path_factory.mktemp("cached") / "world", *ALL)


def both(recipe: Path, *overrides: str) -> tuple[Parts, Parts]:
    live, cached = (
        cache_world.parts(recipe, *ALL, *overrides, f"targets.from={where}") for where in ("live", "cached")
    )
    assert live.cached is None
    assert cached.cached is not None
    return live, cached


def test_live_and_cached_losses_are_the_same_row_by_row(recipe: Path) -> None:
    """With the same views: soft targets of a class and of every pixel, hints on maps and on pooled features."""
    live, cached = both(recipe)
    for parts in (live, cached):
        calibrate_terms(cache_world.batches(parts, 8), parts.targets(), parts.loss_configs, parts.terms)
    views = set()
    batches = zip(cache_world.batches(live, STEPS), cache_world.batches(cached, STEPS), strict=True)
    for ours, theirs in batches:
        assert ours.keys == theirs.keys
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.color, theirs.color)
        assert all(torch.equal(label, theirs.labels[task]) for task, label in ours.labels.items())
        views |= set(ours.view.tolist())
        for task in live.kinds:
            for name, loss in row_losses(live, task, ours).items():
                assert torch.allclose(loss, row_losses(cached, task, theirs)[name], rtol=2e-3, atol=2e-4), (
                    task,
                    name,
                )
    assert views == {0, 1, 2}


def row_losses(parts: Parts, task: str, batch: Any) -> dict[str, Tensor]:
    """Each term of a task for each row of a batch, with the first weights of the student."""
    target = parts.targets()(batch)[task].output
    with torch.no_grad():
        features = parts.student.trunk(batch.images)
        logits = parts.student.heads[task](features)
        losses = {"soft_targets": parts.kinds[task].soft_target_loss(logits, target.logits, 4.0)}
        (hints,) = (term.adapters for term in parts.terms[task] if term.name == "hint")
        pairs = parts.loss_configs[task].hints
        for number, (pair, hint) in enumerate(zip(pairs, hints, strict=True)):
            losses[f"hint {number}"] = hint(features[pair.student], target.hidden[pair.teacher])
    assert all(loss.shape == (len(batch),) for loss in losses.values())
    return losses


def test_live_and_cached_training_go_the_same_way(recipe: Path) -> None:
    """Soft targets are asked for where labels are missing, in micro-batches, through the trainer itself."""
    overrides = ("training.teachers_on=missing", "training.accumulate=2", SLOW)
    losses = [train(parts) for parts in both(recipe, *overrides)]
    for step, (ours, theirs) in enumerate(zip(*losses, strict=True)):
        for task, terms in ours.items():
            assert terms == pytest.approx(theirs[task], rel=5e-3, abs=1e-3), (step, task)


def train(parts: Parts) -> list[dict[str, dict[str, float]]]:
    training = parts.recipe.training
    targets = parts.targets()
    calibrate_terms(cache_world.batches(parts, 8), targets, parts.loss_configs, parts.terms)
    objective = Objective(parts.student, parts.loss_configs, parts.terms, parts.rule)
    providers = parts.providers(targets, parts.student)
    trainer = Trainer(
        start_accelerator(training), objective, providers, parts.recipe, schedule=parts.schedule
    )
    stream = parts.sources.stream(micro_batches=training.accumulate, steps=STEPS)
    return [
        trainer.step(step, [next(stream) for _ in range(training.accumulate)]).values(trainer.accelerator)
        for step in range(STEPS)
    ]


def test_no_teacher_runs_in_a_cached_step(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cached = both(recipe)

    def speak(*_: object) -> None:
        raise AssertionError("a teacher was asked")

    monkeypatch.setattr(Teacher, "forward", speak)
    assert train(cached)


def test_a_cached_run_opens_no_teacher_before_the_comparison(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a teacher was opened")

    monkeypatch.setattr("distill_mtl.teachers.load_teacher.load_teacher", refuse)
    cached = cache_world.parts(recipe, *ALL, "targets.from=cached")
    run_check(cached, torch.device("cpu"), Console(quiet=True))
    try_one_batch(cached, torch.device("cpu"), slices=1)
    assert train(cached)
    assert cached.teachers.cards["hue"].classes == toys.classes(3)
    with pytest.raises(AssertionError, match="a teacher was opened"):
        cached.teachers["hue"]


def test_views_are_replayed_from_the_file_not_drawn_again(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a change of the drawing: what teachers saw stays what the student sees."""
    live, cached = both(recipe)
    seen = [batch.images for batch in cache_world.batches(live, 20)]
    monkeypatch.setattr("distill_mtl.data.augmentation.training_view", None)
    monkeypatch.setattr("distill_mtl.data.augmentation.plain_view", None)
    for before, batch in zip(seen, cache_world.batches(cached, 20), strict=True):
        assert torch.equal(before, batch.images)


def test_reader_processes_replay_the_same_views(recipe: Path) -> None:
    _, cached = both(recipe)
    here = list(cached.sources.stream(steps=12))
    there = list(cached.sources.stream(steps=12, workers=2))
    for ours, theirs in zip(here, there, strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.row, theirs.row)
        assert torch.equal(ours.view, theirs.view)


def test_int8_trains_close_to_live(tmp_path: Path) -> None:
    rough = (*ALL, "targets.logits=int8", "targets.features=int8")
    recipe = cache_world.cached(tmp_path / "world", *rough)
    live, cached = (
        cache_world.parts(recipe, *rough, f"targets.from={where}") for where in ("live", "cached")
    )
    for ours, theirs in zip(train(live), train(cached), strict=True):
        for task, terms in ours.items():
            assert terms == pytest.approx(theirs[task], rel=0.05, abs=0.05), task


def test_a_corrupt_row_is_replaced_by_the_row_whose_targets_are_taken(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    toy_world.corrupt(recipe.parent / "hue-train.tar", 7)
    with pytest.raises(UserError, match="row hue-train-007"):
        write_cache(recipe)
    assert not cache_world.sidecars(recipe.parent), "the shard before it in the recipe is the first one"
    overrides = (*ALL, "data.hue.corrupt=skip")
    write_cache(recipe, overrides)
    live, cached = (
        cache_world.parts(recipe, *overrides, f"targets.from={where}") for where in ("live", "cached")
    )
    replaced = 0
    for ours, theirs in zip(
        cache_world.batches(live, STEPS), cache_world.batches(cached, STEPS), strict=True
    ):
        assert torch.equal(ours.row, theirs.row)
        assert torch.equal(ours.images, theirs.images)
        replaced += len(ours.skipped)
        for task, target in live.targets()(ours).items():
            found = cached.targets()(theirs)[task].output.logits
            assert torch.allclose(target.output.logits, found, rtol=1e-3, atol=1e-2)
    assert replaced


def test_a_picture_that_was_corrupt_when_it_was_cached_has_no_targets(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    whole = (recipe.parent / "hue-train.tar").read_bytes()
    toy_world.corrupt(recipe.parent / "hue-train.tar", 7)
    overrides = ("data.hue.corrupt=skip", "targets=cached")
    write_cache(recipe, overrides)
    (recipe.parent / "hue-train.tar").write_bytes(whole)
    parts = cache_world.parts(recipe, *overrides)
    with pytest.raises(CacheError, match=r"hue-train\..*picture of row 7 .*cached"):
        list(parts.sources.stream(steps=STEPS))


def test_a_batch_of_fresh_views_is_refused(recipe: Path) -> None:
    _, cached = both(recipe)
    fresh = next(cache_world.batches(cache_world.parts(recipe, "targets=live"), 1))
    assert fresh.view.tolist() == [-1] * len(fresh)
    with pytest.raises(ValueError, match="fresh views"):
        cached.targets()(fresh)


def test_labels_only_opens_no_cache_and_keeps_its_views(tmp_path: Path) -> None:
    recipe = cache_world.make(tmp_path / "world")
    parts = cache_world.parts(recipe, "targets=cached", "training.teachers_on=none")
    assert parts.cached is None
    assert "labels only" in parts.taught
    assert {view for batch in parts.sources.stream(steps=20) for view in batch.view.tolist()} == {0}


RUN = (
    *ALL,
    "training.steps=12",
    "training.checkpoint_every=6",
    "training.log_every=1",
    "training.ema=0.9",
    SLOW,
)


def run(recipe: Path, out: Path, overrides: Sequence[str], *, resume: bool = False) -> dict[str, Tensor]:
    distill(load_recipe(recipe, overrides), out=out, resume=resume)
    return load_file(out / "student" / "model.safetensors")


def back_to_the_middle(out: Path) -> None:
    """As a run that was killed after its first checkpoint left it."""
    shutil.rmtree(out / "checkpoints" / "step_00000012")
    shutil.rmtree(out / "student")
    (out / "results.json").unlink()


def test_a_resumed_run_ends_bit_identical(recipe: Path, tmp_path: Path) -> None:
    out, overrides = tmp_path / "run", (*RUN, "targets.from=cached")
    whole = run(recipe, out, overrides)
    back_to_the_middle(out)
    resumed = run(recipe, out, overrides, resume=True)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


@pytest.mark.parametrize("first", ["live", "cached"])
def test_auto_is_decided_when_a_run_begins_and_kept_when_it_goes_on(tmp_path: Path, first: str) -> None:
    recipe, out = cache_world.make(tmp_path / "world"), tmp_path / "run"
    if first == "cached":
        write_cache(recipe, RUN)
    whole = run(recipe, out, RUN)
    assert load_recipe(out / "recipe.resolved.yaml").targets.from_ == first
    back_to_the_middle(out)
    if first == "live":
        write_cache(recipe, RUN)
        resumed = run(recipe, out, RUN, resume=True)
        assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    else:
        cache_world.sidecars(recipe.parent)[0].unlink()
        with pytest.raises(CacheError, match="1 of 4 shards"):
            run(recipe, out, RUN, resume=True)


def test_two_processes_equal_one(recipe: Path, tmp_path: Path) -> None:
    changes = (*RUN, "targets.from=cached", "training.ema=null")
    one, two = run(recipe, tmp_path / "one", changes), tmp_path / "two"
    options = (f"--set={change}" for change in changes)
    both = forked.run_two("distill", recipe, "--out", two, *options)
    assert [ended.status for ended in both] == [0, 0], both
    assert "targets: cached, 3 views per row" in both[0].text
    weights = load_file(two / "student" / "model.safetensors")
    for name, weight in one.items():
        assert torch.allclose(weight, weights[name], rtol=2e-3, atol=2e-3), name


def test_heads_begin_as_their_teachers_without_opening_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both kinds, from the weights in the folders: the toy teachers have the student's heads at width 5."""
    begun = ("student.args={width: 5}", "tasks.hue.head={init: teacher}", "tasks.shape.head={init: teacher}")
    recipe = cache_world.cached(tmp_path / "world", *begun)
    monkeypatch.setattr(
        "distill_mtl.teachers.load_teacher.load_teacher", lambda *_, **__: pytest.fail("it was opened")
    )
    parts = cache_world.parts(recipe, *begun, "targets.from=cached")
    for task in ("hue", "shape"):
        theirs = load_file(tmp_path / "world" / "teachers" / task / "model.safetensors")
        mine = parts.student.heads[task].state_dict()
        assert all(torch.equal(mine[key], theirs[f"heads.{task}.{key}"]) for key in mine)


def test_what_a_card_keeps_survives_the_cache(recipe: Path) -> None:
    live, cached = both(recipe)
    assert {task: card.labels for task, card in cached.teachers.cards.items()} == {
        task: card.labels for task, card in live.teachers.cards.items()
    }
    card = live.teachers.cards["hue"]
    further = replace(card, labels=replace(card.labels, rest=2))
    assert TeacherCard.from_dict(json.loads(json.dumps(further.to_dict()))) == further
