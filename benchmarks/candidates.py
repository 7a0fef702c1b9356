"""Candidates of the merge bench that are no options of ours: each changes a run of our defaults from outside.

    OMP_NUM_THREADS=1 python benchmarks/candidates.py mixup cutmix averages --only quickstart photos

`mixup`, `cutmix`: half of the rows of a batch are mixed with other rows of it and lose their labels, so that student
and teachers see the same mixed picture and the teachers alone say what it is (function matching, Beyer et al. 2022,
arXiv:2106.05237). `averages`: one run whose weights are kept along its last fifth, and its entrants `last`,
`mean-fifth` (nine of them), `mean-tenth` (the last five), each also with BatchNorm's statistics set anew on 20 batches
of the run, in training's mixture (`-bn`).

Runs lie where those of merges.py do, so that its table shows them; it makes their shards and teachers.
"""

import argparse
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from merge_run import World, keep_scores, one_run
from merge_sets import MERGES, ROOT
from merges import Run, prepare
from torch import Tensor
from torch.optim.swa_utils import update_bn

from distill_mtl.data.batch import Batch
from distill_mtl.recipe import load_recipe
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.training.checkpoint import Session
from distill_mtl.training.step import StepReport, Trainer

MIXED = 0.5
"""Share of the rows of a batch."""
KEPT = [0.8 + 0.025 * number for number in range(9)]
"""Shares of a run after which its weights are kept."""
MEANS = {"last": 1, "mean-tenth": 5, "mean-fifth": 9}
BATCHES = 20
"""For the statistics of BatchNorm."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("candidates", nargs="+", choices=["mixup", "cutmix", "averages"])
    parser.add_argument("--only", nargs="+", choices=MERGES, default=["quickstart", "photos"])
    parser.add_argument("--budget", choices=["short", "long"], default="short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(os.environ.get("DISTILL_MTL_BENCH", "runs/merges")))
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    os.chdir(ROOT)  # where paths of shipped recipes begin
    for merge in arguments.only:
        prepare(merge, work)
        for candidate in arguments.candidates:
            run = Run(merge, arguments.budget, candidate, arguments.seed)
            if candidate == "averages":
                averages(run, work)
            else:
                mix = {"mixup": mixed_up, "cutmix": cut_and_mixed}[candidate]
                with patch.object(Trainer, "step", with_mixing(Trainer.step, mix)):
                    train(run, work)


def train(run: Run, work: Path) -> Path:
    """A run of ours into the folder of this entrant."""
    folder = run.folder(work)
    part = folder.with_name(f"{folder.name}.part")
    for place in (part, folder):
        shutil.rmtree(place, ignore_errors=True)
    part.mkdir(parents=True)
    one_run(MERGES[run.merge], run.budget, run.entrant, run.seed, part, work, [])
    part.rename(folder)
    return folder


# ---- mixed pictures -----------------------------------------------------------------------------------
Mix = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Pictures, their partners, both uint8 [R, 3, H, W], and chance -> mixed pictures."""


def with_mixing(step: Callable[..., StepReport], mix: Mix) -> Callable[..., StepReport]:
    """A trainer's step on batches of which a part is mixed."""

    def mixing(trainer: Trainer, number: int, batches: Sequence[Batch], **how: Any) -> StepReport:
        chance = torch.Generator().manual_seed(1_000_003 * trainer.recipe.seed + number)
        return step(trainer, number, [mixed(batch, mix, chance) for batch in batches], **how)

    return mixing


def mixed(batch: Batch, mix: Mix, chance: torch.Generator) -> Batch:
    """A part of the rows mixed with rows of any data set, and without labels."""
    order = torch.randperm(len(batch), generator=chance)
    rows, partners = order[: int(MIXED * len(batch))], order.roll(1)[: int(MIXED * len(batch))]
    images = batch.images.clone()
    images[rows] = mix(batch.images[rows], batch.images[partners], chance)
    labelled = {task: known.clone() for task, known in batch.labelled.items()}
    for known in labelled.values():
        known[rows] = False
    return replace(batch, images=images, labelled=labelled)


def mixed_up(images: Tensor, partners: Tensor, chance: torch.Generator) -> Tensor:
    """Mixup (Zhang et al. 2018): a weighted mean of two pictures, its weight even in [0, 1]."""
    share = torch.rand(len(images), 1, 1, 1, generator=chance)
    return (share * images + (1 - share) * partners).round().to(torch.uint8)


def cut_and_mixed(images: Tensor, partners: Tensor, chance: torch.Generator) -> Tensor:
    """CutMix (Yun et al. 2019): a box of the partner, whose area is even in [0, 1] before the edges cut it."""
    side, *middle = torch.rand(3, len(images), 1, generator=chance)
    inside = [
        (torch.arange(size) - at * size).abs() < side.sqrt() * size / 2
        for size, at in zip(images.shape[-2:], middle, strict=True)
    ]
    return torch.where((inside[0][:, :, None] & inside[1][:, None])[:, None], partners, images)


# ---- averaged weights ---------------------------------------------------------------------------------
def averages(run: Run, work: Path) -> None:
    """One run, and what its weights give in several forms."""
    kept: list[dict[str, Tensor]] = []
    after = {round(share * MERGES[run.merge].steps(run.budget)) for share in KEPT}
    count = Session.after_step

    def keeping(session: Session) -> None:
        count(session)
        if session.step in after:
            state = session.trainer.objective.student.state_dict()
            kept.append({name: value.clone() for name, value in state.items()})

    with patch.object(Session, "after_step", keeping):
        trained = train(replace(run, entrant="last"), work)
    score_averages(run, work, trained, kept)


def score_averages(run: Run, work: Path, trained: Path, kept: Sequence[dict[str, Tensor]]) -> None:
    """Each mean of the kept weights, with BatchNorm's statistics averaged and set anew, as an entrant of its own."""
    opened = load_student(trained / "run" / "student")
    student, world = opened.student, World.of(load_recipe(trained / "run" / "recipe.resolved.yaml"))
    for name, number in MEANS.items():
        for entrant in (name, f"{name}-bn"):
            student.load_state_dict(mean_of(kept[-number:]))
            if entrant.endswith("-bn"):
                stream = world.sources.stream(steps=BATCHES, workers=0)
                update_bn((batch.to("cpu").images for batch in stream), student)
            folder = replace(run, entrant=entrant).folder(work)
            if entrant != "last":
                folder.mkdir(parents=True, exist_ok=True)
                save_student(student, folder / "student")
                keep_scores(dict.fromkeys(world.kinds, opened), world, folder, {"cpu_seconds": 0.0})


def mean_of(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each weight; counters as in the last state."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0) if last.is_floating_point() else last
        for name, last in states[-1].items()
    }


if __name__ == "__main__":
    main()
