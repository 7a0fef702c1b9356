"""A loss term of the user's own: the example of CONTRIBUTING.md, trained, scheduled, logged and reported."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_world
import yaml
from matplotlib.figure import Figure
from rich.console import Console

from distill_mtl import distill, load_recipe
from distill_mtl.distillation.term import TERMS, Term, admit_term
from distill_mtl.errors import UserError
from distill_mtl.report.blocks import Charts
from distill_mtl.report.run_record import read_run
from distill_mtl.report.sections.learning import losses

TERM = "my_terms:HardTargets"
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the example and a toy world, and nothing of the user's imported before or after."""
    (example,) = re.findall(r"```python\n([^`]*class HardTargets[^`]*)```", _guide())
    (tmp_path / "my_terms.py").write_text(example)
    toy_world.build(tmp_path)
    TERMS.names()
    monkeypatch.setattr(TERMS, "_entries", dict(TERMS._entries))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_terms", None)


def _guide() -> str:
    return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def _example() -> str:
    """The task's section in the guide, as an override of the toy world's `hue`."""
    (lines,) = re.findall(r"```yaml\n(tasks:[^`]*HardTargets[^`]*)```", _guide())
    (section,) = yaml.safe_load(lines)["tasks"].values()
    return f"tasks.hue.weights={json.dumps(section['weights'])}"


def _curves(run: Path) -> dict[str, list[str]]:
    """Task -> the curves in its chart of the report."""
    section = losses(read_run(run))
    assert section is not None
    (charts,) = (block for block in section.blocks if isinstance(block, Charts))
    found = {}
    for chart in charts.charts:
        axes = Figure().add_subplot()
        chart.drawing.paint(axes)
        found[chart.title] = [str(line.get_label()) for line in axes.lines]
    return found


def test_the_example_of_the_guide_trains_and_is_scheduled_logged_and_reported(folder: Path) -> None:
    schedule = (
        f'schedule=[{{until: 4, tasks: {{hue: {{weights: {{"{TERM}": 2}}}}}}}}, {{weights: {{"{TERM}": 0}}}}]'
    )
    recipe = load_recipe("toy.yaml", [_example(), "tasks.hue.trust=true", schedule])
    assert recipe.tasks["hue"].weights == {"supervised": 1, "soft_targets": 0.5, "hint": 0.1, TERM: 0.5}
    distill(recipe, out=folder / "run", console=Console(quiet=True))
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [TERM in line["tasks"]["hue"] for line in lines] == [True, True, False]
    assert not any(TERM in line["tasks"]["shape"] for line in lines)
    named = lines[0]["tasks"]["hue"]
    parts = sum(named[term] for term in ("supervised", "soft_targets", "hint", TERM))
    assert named["total"] == pytest.approx(parts, rel=1e-4)
    assert TERM.replace("_", " ") in _curves(folder / "run")["hue"]


def test_a_terms_loss_grows_with_its_weight(folder: Path) -> None:
    first = {}
    for weight in (0.5, 1.0):
        overrides = [f'tasks.hue.weights={{"{TERM}": {weight}}}', "tasks.hue.trust=true", "training.steps=2"]
        out = folder / f"run-{weight}"
        distill(load_recipe("toy.yaml", overrides), out=out, console=Console(quiet=True))
        first[weight] = json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["tasks"]["hue"][TERM]
    assert first[1.0] > 1.2 * first[0.5]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("my_terms:Missing", "has no 'Missing'"),
        ("my_terms:F", "loss term"),
        ("my_terms:Term", "forward"),
        ("hnt", "'hint'"),
    ],
)
def test_what_is_no_whole_term_is_refused(folder: Path, name: str, found: str) -> None:
    with pytest.raises(UserError, match=found):
        admit_term(name, trust=True, say="")


def test_code_runs_only_where_it_is_trusted(folder: Path) -> None:
    with pytest.raises(UserError, match="trust: true"):
        admit_term(TERM, trust=False, say="`trust: true`")
    assert "my_terms" not in sys.modules


def test_a_term_that_gives_no_number_for_each_row_is_named(folder: Path) -> None:
    text = (folder / "my_terms.py").read_text().replace('reduction="none"', 'reduction="mean"')
    (folder / "my_terms.py").write_text(text)
    recipe = load_recipe("toy.yaml", [_example(), "tasks.hue.trust=true"])
    with pytest.raises(UserError, match=f"{TERM}.*hue"):
        distill(recipe, out=folder / "run", console=Console(quiet=True))


def test_a_term_may_not_take_a_name_that_the_log_uses() -> None:
    with pytest.raises(ValueError, match="total"):
        type("Total", (Term,), {"name": "total"})
