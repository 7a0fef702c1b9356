"""How the student learned: losses, and how the tasks shared the trunk."""

from collections.abc import Mapping

import numpy as np

from distill_mtl.report.blocks import Block, Chart, Charts, Section, Text
from distill_mtl.report.charts import DASHES, INK, SERIES, Line, lines, told_apart
from distill_mtl.report.run_record import Curve, RunRecord
from distill_mtl.report.sections import section

_NO_TERMS = ("total", "gated")
"""Entries of a task in the log that are not loss terms."""
_MANY_PAIRS = 7


@section(70)
def losses(run: RunRecord) -> Section | None:
    """A chart for each task, a line for each term, which looks the same in every chart."""
    logged = run.metrics.terms
    if not logged:
        return None
    names = dict.fromkeys(term for terms in logged.values() for term in terms if term not in _NO_TERMS)
    looks = {
        term: (SERIES[(number + 1) % len(SERIES)], DASHES[number % len(DASHES)])
        for number, term in enumerate(names)
    }
    charts = []
    for number, task in enumerate(run.tasks):
        terms = logged.get(task, {})
        drawn = [
            Line(term.replace("_", " "), curve, *looks[term])
            for term, curve in terms.items()
            if term in looks
        ]
        if len(drawn) > 1 and "total" in terms:
            drawn.append(Line("total", terms["total"], INK, width=1.0))
        if drawn:
            charts.append(
                Chart(lines(f"loss-{number}", f"Losses of {task} over steps", drawn, columns=4), task)
            )
    note = Text(
        "Each point is what one logged step cost, weighted as the recipe says; of long runs the mean of "
        "neighbouring steps.",
        quiet=True,
    )
    return Section("losses", "Losses", [Charts(charts), note])


@section(75)
def rate(run: RunRecord) -> Section | None:
    """How the learning rate was found."""
    found = run.environment.get("rate")
    if not found:
        return None
    blocks: list[Block] = [Text(f"{found['said']}.".replace("lr:", "Learning rate:", 1))]
    if found["curve"]:
        tested, losses = np.array(found["curve"], dtype=float).T
        drawing = lines(
            "rate", "Loss over learning rates", [Line("", Curve(tested, losses), INK)], level=1.0, rates=True
        )
        note = "Steps at rising rates, from the student's first weights; 1 is the loss of the first step."
        blocks.append(Charts([Chart(drawing, "Range test", note)]))
    return Section("rate", "Learning rate", blocks)


@section(80)
def balance(run: RunRecord) -> Section | None:
    """Weights, cosines, the balanced direction, and harmed tasks where they were measured."""
    metrics, charts = run.metrics, []
    if metrics.weights:
        charts.append(
            Chart(
                lines("weights", "Weight of each task over steps", told_apart(metrics.weights)),
                "Weights",
                "Weight of each task in a step.",
            )
        )
    if metrics.cosines:
        charts.append(_conflicts(metrics.cosines))
    if metrics.norm is not None:
        charts.append(
            Chart(
                lines("norm", "Norm of the balanced direction over steps", [Line("", metrics.norm, INK)]),
                "Norm of the balanced direction",
                "It is 0 where no step helps every task.",
            )
        )
    if metrics.harmed is not None:
        charts.append(
            Chart(
                lines(
                    "harmed",
                    "Share of tasks that a step would hurt",
                    [Line("", metrics.harmed, INK)],
                    limits=(-0.02, 1.02),
                ),
                "Harmed tasks",
                "Share of tasks whose loss the step would raise, to first order; the mean is "
                f"{100 * metrics.harmed.mean:.0f} %.",
            )
        )
    if not charts:
        return None
    # The sentence that the run began with, or what the recipe asks for.
    rule = str(run.environment.get("balance") or (run.recipe.get("balance") or {}).get("method"))
    note = Text(f"{rule[:1].upper()}{rule[1:]}.", quiet=True)
    return Section("balance", "Balance of the tasks", [note, Charts(charts)])


def _conflicts(cosines: Mapping[str, Curve]) -> Chart:
    """Cosines of the tasks' gradients, the most opposed pair named."""
    worst = dict(sorted(cosines.items(), key=lambda item: item[1].mean))
    pair, curve = next(iter(worst.items()))
    opposed = "No pair does here."
    if curve.mean <= -0.005:
        opposed = f"Most opposed: {pair}, with a mean of {curve.mean:+.2f}."
    reach = min(1.05, max(0.2, 1.2 * max(np.abs(curve.values).max() for curve in worst.values())))
    most = f" The most opposed of {len(worst)} pairs are named." if len(worst) > _MANY_PAIRS else ""
    return Chart(
        lines(
            "cosines",
            "Cosine of the tasks' gradients over steps, by pair",
            told_apart(worst),
            limits=(-reach, reach),
            level=0.0,
            columns=2,
        ),
        "Gradient conflicts",
        "Cosine of two tasks' gradients in the shared features. Two tasks with a mean below 0 pull against each other. "
        f"{opposed}{most}".replace("-0.", "−0."),
    )
