"""Gradient descent by four rules on a toy whose Pareto set is known, as a picture and a table.

    python benchmarks/trajectories.py [--to docs/images/trajectories.png]

Needs the extra `bench` (matplotlib). The trunk has two parameters θ and one feature z = Aθ; two tasks are
quadratics of z around corners of their own, of unlike scales. A is ill-conditioned, so angles between
gradients at the feature (where `mgda_ub` decides) are not those in the parameters (where `mgda` does).
Distances are in θ. A step is harmful if its gradient would raise a task's loss to first order, as
`measure_harm` reports it. The steps at the end are many and tiny, so the share of the way (the length of
all harmful steps) is given beside the share of steps.
"""

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from distill_mtl.balance import Rule, Shared, make_rule

Array = NDArray[np.float64]

TASKS = ("a", "b")
RULES = {
    "uniform": {},
    "fixed": {"weights": {"a": 1.6, "b": 0.4}},
    "mgda": {},
    "mgda_ub": {},
}
TITLES = {"fixed": "fixed 1.6 / 0.4"}
RATE = 0.02
STEPS = 1500
SHORTEST = 1e-5
"""A trajectory ends with a step shorter than this, or after STEPS."""

STARTS = [
    (-2.4, 1.7),
    (-0.9, 2.2),
    (1.0, 2.2),
    (2.5, 1.3),
    (2.5, -1.2),
    (0.9, -2.2),
    (-0.8, -2.2),
    (-2.5, -1.0),
]
VIEW = (-2.8, 2.8, -2.45, 2.45)
DPI, COLORS = 120, 256
INK, BLUE, ORANGE, PATH, HARM = "#222222", "#3b7dd8", "#e08a1e", "#5b6470", "#d62839"


def rotation(degrees: float) -> Array:
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


TRUNK = np.diag([1.6, 0.4]) @ rotation(35)
CORNERS = {"a": TRUNK @ [-1.3, -0.5], "b": TRUNK @ [1.3, 0.5]}
CURVATURES = {
    "a": rotation(20) @ np.diag([1.0, 4.0]) @ rotation(-20),
    "b": 3 * rotation(-40) @ np.diag([1.0, 3.0]) @ rotation(40),
}


@dataclass
class Path2D:
    """One descent.

    Attributes:
        points: [N + 1, 2] values of θ.
        harmful: [N], whether the step from the point of that index hurts a task.
    """

    points: Array
    harmful: NDArray[np.bool_]

    @property
    def lengths(self) -> Array:
        """[N], of the steps."""
        return np.linalg.norm(np.diff(self.points, axis=0), axis=1)


def pareto_set(count: int = 4001) -> Array:
    """[count, 2] values of θ: where λ·loss_a + (1 - λ)·loss_b is least, for λ from 0 to 1."""
    points = []
    for share in 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, count)):
        shares = {"a": share, "b": 1 - share}
        curvature = sum(shares[task] * CURVATURES[task] for task in TASKS)
        pull = sum(shares[task] * CURVATURES[task] @ CORNERS[task] for task in TASKS)
        points.append(np.linalg.solve(TRUNK, np.linalg.solve(curvature, pull)))
    return np.array(points)


def distance(point: Array, curve: Array) -> float:
    """From a point to a polyline."""
    along = np.diff(curve, axis=0)
    share = ((point - curve[:-1]) * along).sum(1) / (along**2).sum(1)
    nearest = curve[:-1] + share.clip(0, 1)[:, None] * along
    return float(np.linalg.norm(point - nearest, axis=1).min())


def loss(task: str, feature: Tensor) -> Tensor:
    gap = feature - torch.from_numpy(CORNERS[task])
    return 0.5 * gap @ torch.from_numpy(CURVATURES[task]) @ gap


def descend(rule: Rule, start: tuple[float, float]) -> Path2D:
    """Plain gradient descent: no momentum, no clipping."""
    theta, trunk = nn.Parameter(torch.tensor(start, dtype=torch.float64)), torch.from_numpy(TRUNK)
    rule.measure_harm = True
    points, harmful = [theta.detach().numpy().copy()], []
    for _ in range(STEPS):
        theta.grad = None
        shared = Shared(trunk @ theta, TASKS)
        rule.backward({task: loss(task, shared[task]) for task in TASKS}, shared)
        with torch.no_grad():
            theta -= RATE * theta.grad
        points.append(theta.detach().numpy().copy())
        harmful.append(bool(rule.diagnostics.harmed))
        if np.linalg.norm(points[-1] - points[-2]) < SHORTEST:
            break
    return Path2D(np.array(points), np.array(harmful))


def harm(paths: list[Path2D]) -> tuple[float, float]:
    """Per cent of the steps that hurt a task, and of the way."""
    harmful = np.concatenate([path.harmful for path in paths])
    lengths = np.concatenate([path.lengths for path in paths])
    return 100 * float(harmful.mean()), 100 * float(lengths[harmful].sum() / lengths.sum())


def draw(paths: dict[str, list[Path2D]], curve: Array, to: Path) -> None:
    """Four panels in the plane of θ."""
    mpl.use("Agg")
    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 12, "text.color": INK})
    figure, axes = plt.subplots(2, 2, figsize=(9, 8.5), sharex=True, sharey=True, layout="constrained")
    for axis, (rule, found) in zip(axes.flat, paths.items(), strict=True):
        panel(axis, found, curve)
        axis.set_title(TITLES.get(rule, rule), loc="left", fontweight="bold", fontsize=13)
        way = harm(found)[1]
        axis.set_title(
            f"{way:.0f} % of the way hurts a task", loc="right", fontsize=12, color=HARM if way else INK
        )
    for axis in axes[1]:
        axis.set_xlabel("θ₁")
    for axis in axes[:, 0]:
        axis.set_ylabel("θ₂", rotation=0, labelpad=9)
    figure.legend(
        handles=[
            Line2D([], [], color=INK, linewidth=4, label="Pareto set"),
            Line2D([], [], color=BLUE, label="loss of a"),
            Line2D([], [], color=ORANGE, label="loss of b"),
            Line2D([], [], color=PATH, marker="o", markerfacecolor="white", label="descent from ○"),
            Line2D([], [], color=HARM, linewidth=2.4, label="step that hurts a task"),
        ],
        loc="outside lower center",
        ncols=5,
        frameon=False,
        columnspacing=1.4,
        handlelength=1.6,
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI)
    Image.open(file).convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE).save(to, optimize=True)


def panel(axis: Axes, paths: list[Path2D], curve: Array) -> None:
    grid = np.stack(np.meshgrid(np.linspace(*VIEW[:2], 240), np.linspace(*VIEW[2:], 240)))
    for task, color in zip(TASKS, (BLUE, ORANGE), strict=True):
        gap = np.einsum("ij,jxy->ixy", TRUNK, grid) - CORNERS[task][:, None, None]
        height = np.einsum("ixy,ij,jxy->xy", gap, CURVATURES[task], gap)
        levels = height.max() * np.array([0.003, 0.02, 0.06, 0.13, 0.25, 0.45])
        axis.contour(*grid, height, levels=levels, colors=color, linewidths=1.1, alpha=0.45)
        corner = np.linalg.solve(TRUNK, CORNERS[task])
        axis.annotate(
            task, corner, textcoords="offset points", xytext=(-13, -3) if task == "a" else (7, -5),
            color=color, fontweight="bold", fontsize=14, zorder=6,
        )  # fmt: skip
    axis.plot(*curve.T, color=INK, linewidth=5, solid_capstyle="round", zorder=3)
    for path in paths:
        axis.plot(*path.points.T, color=PATH, linewidth=1.5, zorder=4)
        harmful = np.stack([path.points[:-1], path.points[1:]], axis=1)[path.harmful]
        axis.add_collection(LineCollection(list(harmful), colors=HARM, linewidths=2.6, zorder=5))
        axis.plot(*path.points[0], "o", color=PATH, markerfacecolor="white", markersize=6, zorder=6)
        axis.plot(*path.points[-1], "o", color="white", markersize=4.5, markeredgecolor=INK, zorder=7)
    axis.set(xlim=VIEW[:2], ylim=VIEW[2:], aspect="equal", xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set_color("#bbbbbb")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--to", type=Path, default=Path("docs/images/trajectories.png"))
    arguments = parser.parse_args()
    curve = pareto_set()
    paths = {
        rule: [descend(make_rule(rule, TASKS, **options), start) for start in STARTS]
        for rule, options in RULES.items()
    }
    print("| rule | largest final distance to the Pareto set | harmful steps | of the way | steps |")
    print("|---|---:|---:|---:|---:|")
    for rule, found in paths.items():
        steps, way = harm(found)
        furthest = max(distance(path.points[-1], curve) for path in found)
        count = sum(len(path.harmful) for path in found)
        print(f"| {TITLES.get(rule, rule)} | {furthest:.1e} | {steps:.1f} % | {way:.1f} % | {count} |")
    draw(paths, curve, arguments.to)
    print(f"\n{arguments.to}: {arguments.to.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
