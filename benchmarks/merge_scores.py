"""Scores of the merge bench, and the arithmetic of its table.

All entrants of a merge are scored by one function on the same test rows, and resampled alike: replicate number i of a
task draws the same rows for everybody. So the difference of two entrants has a paired interval, whenever each was run.
"""

import json
import statistics
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill_mtl.data import Sources
from distill_mtl.evaluation.bootstrap import draw_counts
from distill_mtl.evaluation.evaluation_set import EvaluationSet
from distill_mtl.evaluation.row_statistics import collect
from distill_mtl.evaluation.seeds import Parts, half_width
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind

RESAMPLES = 200
SCORES, REPLICATES = "scores.json", "replicates.npz"
RIVALS = ("teachers", "loop", "loop-labels", "single", "old", "ours")
LOOPS = ("loop", "loop-labels")


@dataclass(frozen=True)
class Scored:
    """One finished run.

    Attributes:
        scores: task -> score, in the metric's own direction.
        signs: task -> 1 where more is better, else -1.
        metrics: task -> its name.
        rows: task -> test rows.
        replicates: task -> [S], the score on each resample of the rows.
        cpu: seconds of process time of training alone, its reading included.
        notes: what else is known of the run.
    """

    scores: Mapping[str, float]
    signs: Mapping[str, int]
    metrics: Mapping[str, str]
    rows: Mapping[str, int]
    replicates: Mapping[str, np.ndarray]
    cpu: float
    notes: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Scored":
        """Of a run's folder."""
        entry = json.loads((folder / SCORES).read_text())
        with np.load(folder / REPLICATES) as file:
            replicates = {task: file[task] for task in entry["tasks"]}
        tasks: dict[str, dict[str, Any]] = entry.pop("tasks")
        return cls(
            scores={task: found["score"] for task, found in tasks.items()},
            signs={task: found["sign"] for task, found in tasks.items()},
            metrics={task: found["metric"] for task, found in tasks.items()},
            rows={task: found["rows"] for task, found in tasks.items()},
            replicates=replicates,
            cpu=entry["cpu_seconds"],
            notes=entry,
        )

    @property
    def mean(self) -> float:
        """Mean over tasks, errors counted below zero: what the choice of a rate maximises."""
        return statistics.mean(self.signs[task] * score for task, score in self.scores.items())


def score_networks(
    networks: Mapping[str, Any], kinds: Mapping[str, TaskKind], sources: Sources, split: Split
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Scores and replicates by task.

    Args:
        networks: task -> what answers it: images -> answers by task.
        kinds: the tasks.
        sources: of the merge.
        split: of their rows.
    """
    tasks, replicates = {}, {}
    rows = EvaluationSet(sources, split)
    for task, network in networks.items():
        kind = kinds[task]
        found = collect(task, kind, network, None, rows)
        where = np.unique(np.array(found.groups), return_inverse=True)[1]
        generator = np.random.default_rng(zlib.crc32(task.encode()))
        counts = draw_counts(generator, RESAMPLES, int(where.max()) + 1)[:, torch.from_numpy(where)]
        tasks[task] = {
            "score": float(kind.score(found.student)),
            "sign": 1 if kind.higher_is_better else -1,
            "metric": kind.metric,
            "rows": len(found.keys),
        }
        parts = [kind.score(found.student, some) for some in counts.split(20)]
        replicates[task] = torch.cat(parts).numpy()
    return tasks, replicates


# ---- the table ----------------------------------------------------------------------------------------
Runs = Mapping[str, Mapping[int, Scored]]
"""Entrant -> seed -> its run, of one merge and budget."""


@dataclass(frozen=True)
class Lead:
    """By how many points one entrant leads another.

    Attributes:
        points: mean over the common seeds; more is better.
        parts: what its uncertainty is made of, rows and seeds.
    """

    points: float
    parts: Parts

    @property
    def half(self) -> float:
        """Half of the 95 % interval."""
        return half_width(self.parts)

    def __str__(self) -> str:
        return f"{self.points:+.2f} ± {self.half:.2f}"


def lead_of(mine: Mapping[int, Scored], other: Mapping[int, Scored], tasks: Sequence[str]) -> Lead | None:
    """The lead on the mean of some tasks. Its interval is the one of `distill_mtl.evaluation.seeds`: of the variance of
    the mean under resampled rows, drawn alike for both, and that of the seeds' differences divided by their number.

    Args:
        mine, other: seed -> run. Where the other has a single run, of networks that no seed changes, it counts for
            every seed.
        tasks: whose differences are averaged.
    """
    if set(other) == {FIXED}:
        other = dict.fromkeys(mine, other[FIXED])
    if set(mine) == {FIXED}:
        mine = dict.fromkeys(other, mine[FIXED])
    seeds = sorted(mine.keys() & other.keys())
    if not seeds or not all(
        task in mine[seeds[0]].scores and task in other[seeds[0]].scores for task in tasks
    ):
        return None
    points, resampled = [], []
    for seed in seeds:
        one, two = mine[seed], other[seed]
        points.append(
            statistics.mean(one.signs[task] * (one.scores[task] - two.scores[task]) for task in tasks)
        )
        resampled.append(
            np.mean([one.signs[task] * (one.replicates[task] - two.replicates[task]) for task in tasks], 0)
        )
    over_seeds = statistics.variance(points) / len(seeds) if len(seeds) > 1 else 0.0
    over_rows = float(np.var(np.mean(resampled, 0), ddof=1))
    rows = min(mine[seeds[0]].rows[task] for task in tasks)
    return Lead(statistics.mean(points), Parts(len(seeds), over_seeds, over_rows, rows))


FIXED = -1
"""The seed of what no seed changes: the teachers."""


def better_loop(runs: Runs) -> str | None:
    """The loop's form with the better mean over tasks and seeds."""
    there = [name for name in LOOPS if runs.get(name)]
    return max(there, key=lambda name: mean_of(runs[name])) if there else None


def mean_of(runs: Mapping[int, Scored]) -> float:
    return statistics.mean(run.mean for run in runs.values())


def block_lines(title: str, runs: Runs, subject: str) -> list[str]:
    """Markdown of one merge and budget: scores of every entrant, and the subject's lead over it."""
    first = next(iter(next(iter(runs.values())).values()))
    tasks = list(first.scores)
    seeds = sorted({seed for of_one in runs.values() for seed in of_one if seed != FIXED})
    named = [f"{task} ({first.metrics[task]}, {first.rows[task]:,} rows)" for task in tasks]
    shown = ", ".join(map(str, seeds))
    lines = [f"### {title}; seeds {shown}", ""]
    leads = [f"{subject} leads: {task}" for task in (*tasks, "mean")]
    lines.append(f"| entrant | seeds | {' | '.join(named)} | CPU s | {' | '.join(leads)} |")
    lines.append("|---|---:|" + "---:|" * (2 * len(tasks) + 2))
    for name, of_one in sorted(runs.items(), key=lambda item: -mean_of(item[1])):
        cells = [
            cell_of([run.scores[task] for run in of_one.values() if task in run.scores]) for task in tasks
        ]
        cpu = statistics.mean(run.cpu for run in of_one.values())
        mine = runs.get(subject, {})
        over = [lead_of(mine, of_one, some) for some in (*([task] for task in tasks), tasks)]
        said = ["" if name == subject or lead is None else str(lead) for lead in over]
        count = "–" if set(of_one) == {FIXED} else str(len(of_one))
        lines.append(f"| {name} | {count} | {' | '.join(cells)} | {cpu:.0f} | {' | '.join(said)} |")
    return [*lines, ""]


def cell_of(values: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"


def ranks(means: Mapping[str, float]) -> dict[str, float]:
    """1 for the best; those that are alike share the mean of their places."""
    ordered = sorted(means.values(), reverse=True)
    return {
        name: statistics.mean(place for place, value in enumerate(ordered, 1) if value == mine)
        for name, mine in means.items()
    }


def whole_lines(blocks: Mapping[str, Runs]) -> list[str]:
    """Markdown of the whole: of each entrant its mean rank among the rivals and itself, its mean lead over the better
    loop, its worst, in how many blocks it is ahead, and its mean lead over single-task networks.

    Args:
        blocks: "merge, budget" -> runs.
    """
    lines = ["### The whole", ""]
    lines.append(
        "| entrant | blocks | mean rank among the rivals | mean lead over the better loop | worst | ahead | "
        "mean lead over single-task networks |"
    )
    lines.append("|---|---:|---:|---:|---|---:|---:|")
    rows = []
    for name in dict.fromkeys(name for runs in blocks.values() for name in runs):
        mine = {title: runs for title, runs in blocks.items() if name in runs}
        rank = statistics.mean(rank_of(name, runs) for runs in mine.values())
        loops = leads_over(name, mine, better_loop)
        singles = leads_over(name, mine, lambda runs: "single" if runs.get("single") else None)
        worst = min(loops, key=lambda title: loops[title].points) if loops else None
        cells = [
            mean_lead(loops.values()),
            "" if worst is None else f"{loops[worst]} ({worst})",
            f"{sum(lead.points > 0 for lead in loops.values())} of {len(loops)}",
            mean_lead(singles.values()),
        ]
        rows.append((rank, f"| {name} | {len(mine)} | {rank:.2f} | {' | '.join(cells)} |"))
    return [*lines, *(row for _, row in sorted(rows)), ""]


def rank_of(name: str, runs: Runs) -> float:
    """The place of an entrant among the rivals and itself, whatever other variants there are."""
    return ranks({each: mean_of(of) for each, of in runs.items() if each in RIVALS or each == name})[name]


def leads_over(name: str, blocks: Mapping[str, Runs], rival: Any) -> dict[str, Lead]:
    """Block -> the lead on the mean of its tasks over the rival that `rival` names there."""
    found = {}
    for title, runs in blocks.items():
        other = rival(runs)
        if other is None or other == name:
            continue
        tasks = list(next(iter(runs[name].values())).scores)
        lead = lead_of(runs[name], runs[other], tasks)
        if lead is not None:
            found[title] = lead
    return found


def mean_lead(leads: Iterable[Lead]) -> str:
    """Mean over blocks; the interval takes them as independent."""
    leads = list(leads)
    if not leads:
        return ""
    parts = [
        replace(
            lead.parts,
            over_seeds=lead.parts.over_seeds / len(leads) ** 2,
            over_rows=lead.parts.over_rows / len(leads) ** 2,
        )
        for lead in leads
    ]
    return f"{statistics.mean(lead.points for lead in leads):+.2f} ± {half_width(*parts):.2f}"
