"""Few labels beside many: how wide an interval 300 labels give, chosen by us, and 10,000 drawn alike.

    python benchmarks/few_labels.py

Simulated sets of 100,000 pictures whose truth is known. Prints a table for accuracy, by the share of pictures on which
student and teacher differ, and one for mIoU. Widths are half of the 95 % interval, means over `--sets` draws; `covered`
is the share of the draws whose interval holds the truth. A minute on one core.
"""

import argparse
import math

import numpy as np
import torch
from torch import Tensor

from distill_mtl.evaluation.bootstrap import paired_interval
from distill_mtl.evaluation.few_labels import Drawn, draw, draw_chances, estimate
from distill_mtl.evaluation.few_labels.intervals import bounded_interval, bounded_sequence
from distill_mtl.tasks.base import TaskKind, build_kind

PICTURES, LABELS, MANY = 100_000, 300, 10_000
STUDENT, TEACHER = 0.4, 0.45  # of the pictures that differ: right alone
NORMAL = 1.959964


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=200, help="draws of labels; default 200")
    sets = parser.parse_args().sets
    columns = (
        "differ",
        "pictures",
        f"{LABELS} labels",
        "looked at after each",
        f"{MANY:,} labels drawn alike",
    )
    print(f"| {' | '.join(columns)} | as many as | covered |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for share in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2):
        print(accuracy(share, sets))
    print()
    print(f"| mIoU | {LABELS} labels | {MANY:,} labels drawn alike | as many as | covered |")
    print("|---|---:|---:|---:|---:|")
    for line in miou(sets):
        print(line)


def accuracy(share: float, sets: int) -> str:
    """One line of the table."""
    draws = np.random.default_rng(int(1000 * share))
    differ = round(share * PICTURES)
    plus, minus = round(STUDENT * differ), round(TEACHER * differ)
    values = np.repeat([1.0, -1.0, 0.0], [plus, minus, differ - plus - minus])
    truth, scale = values.mean(), 100 * differ / PICTURES
    counts = draws.multivariate_hypergeometric([plus, minus, differ - plus - minus], LABELS, size=10 * sets)
    ends = np.array([bounded_interval(up, down, LABELS, differ) for up, down, _ in counts.tolist()])
    covered = np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1]))
    anytime = []
    for _ in range(20):
        low, high = bounded_sequence((draws.permutation(values)[:LABELS] + 1) / 2, differ, LABELS)
        anytime.append(scale * (high - low))
    spread = 100 * math.sqrt(
        share * (STUDENT + TEACHER)
    )  # of a picture drawn alike; equal to its paired bootstrap's
    many = NORMAL * spread / math.sqrt(MANY)
    width = scale * float(np.diff(ends).mean()) / 2
    return (
        f"| {100 * share:.0f} % | {differ:,} | ±{width:.2f} | ±{np.mean(anytime):.2f} | ±{many:.2f} "
        f"| {(NORMAL * spread / width) ** 2:,.0f} | {100 * covered:.1f} % |"
    )


def miou(sets: int) -> list[str]:
    """Labels drawn by the size of the disagreement, and drawn alike."""
    kind, student, teacher = masks(PICTURES)
    truth = float(kind.score(student) - kind.score(teacher))
    apart = (kind.row_scores(student) - kind.row_scores(teacher)).abs().numpy()
    guessed = apart * np.random.default_rng(1).uniform(0.5, 2, PICTURES) + 0.05
    rows = np.random.default_rng(2).choice(PICTURES, MANY, replace=False)
    ends = paired_interval(
        [str(row) for row in rows], student[rows], teacher[rows], kind.score, resamples=1000, seed=0
    )
    assert ends is not None
    many, lines = (ends[1] - ends[0]) / 2, []
    for name, chances in (("by size", draw_chances(guessed)), ("alike", np.ones(PICTURES))):
        widths, covered = [], 0
        for seed in range(sets // 2):
            drawn = draw(chances, LABELS, seed)
            rule = Drawn(drawn.chances, PICTURES, LABELS)
            low, high = estimate(kind, student[drawn.rows], teacher[drawn.rows], rule).interval or (0.0, 0.0)
            widths.append((high - low) / 2)
            covered += low <= truth <= high
        width = float(np.mean(widths))
        lines.append(
            f"| drawn {name} | ±{width:.2f} | ±{many:.2f} | {MANY * (many / width) ** 2:,.0f} "
            f"| {100 * covered / len(widths):.1f} % |"
        )
    return lines


def masks(pictures: int) -> tuple[TaskKind, Tensor, Tensor]:
    """Statistics of student and teacher: three classes, the third in one picture of five; most masks are alike."""
    draws, kind = np.random.default_rng(0), build_kind("segmentation", ("ground", "plant", "sign"))
    there = np.stack([np.ones(pictures, bool)] * 2 + [draws.random(pictures) < 0.2], 1)
    pixels = draws.integers(10, 200, there.shape) * there
    right = np.clip(draws.normal(0.8, 0.12, (pictures, 1)) - [0.0, 0.05, 0.2], 0.02, 0.98)
    both = draws.binomial(pixels, right)
    networks = []
    for _ in range(2):
        lost = draws.binomial(both, 0.3 * draws.beta(0.1, 3, (pictures, 1)))
        hits = both - lost
        counts = [hits, pixels, hits + np.roll(pixels - hits, 1, 1)]
        networks.append(torch.from_numpy(np.concatenate(counts, 1).astype(float)))
    return kind, networks[0], networks[1]


if __name__ == "__main__":
    main()
