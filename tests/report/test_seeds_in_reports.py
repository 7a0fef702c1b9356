"""Reports of runs that differ by their seed alone, and of two recipes with several seeds or one."""

import io
from pathlib import Path

import pytest
import report_world
from rich.console import Console

from distill_mtl.errors import UserError
from distill_mtl.jobs.report import write_report
from distill_mtl.report.run_record import read_run
from distill_mtl.report.seeds import by_recipe


def said(*runs: Path) -> tuple[str, str]:
    """What the command prints, and the page."""
    text = io.StringIO()
    page = write_report(runs, console=Console(file=text, width=140))
    return text.getvalue(), page.read_text()


def test_seeds_of_one_recipe_have_a_mean_a_spread_and_a_verdict(tmp_path: Path) -> None:
    printed, page = said(*report_world.write_seeds(tmp_path / "wide", 0.4, 0.1, -0.2))
    line = next(line for line in printed.splitlines() if line.strip().startswith("breed"))
    assert "+0.10" in line
    assert "0.30" in line
    assert "0: +0.40 ✓, 1: +0.10 ✓, 2: −0.20 ✓" in line
    assert printed.strip().splitlines()[-1] == (
        "✓ accepted over 3 seeds: the mean of no task lost more than its margin"
    )
    assert "wide, 3 seeds" in printed
    assert 'id="seeds"' in page
    assert "Accepted over 3 seeds" in page


def test_the_folder_of_several_seeds_names_their_runs(tmp_path: Path) -> None:
    first, second = report_world.write_seeds(tmp_path / "wide", 0.4, 0.1)
    with pytest.raises(UserError, match=f"give {first}, {second}"):
        said(first.parent)


def test_seeds_that_lie_far_apart_leave_the_mean_undecided(tmp_path: Path) -> None:
    """Each of the students is accepted by its own interval."""
    printed, _ = said(*report_world.write_seeds(tmp_path / "wide", 0.6, -0.7))
    assert printed.strip().splitlines()[-1] == "? not accepted yet over 2 seeds: undecided: breed −0.05"


def test_two_recipes_are_told_apart_or_are_within_what_seeds_do(tmp_path: Path) -> None:
    first = report_world.write_seeds(tmp_path / "first", 0.4, 0.1, -0.2)
    alike = report_world.write_seeds(tmp_path / "alike", 0.3, 0.0, 0.1, lr=0.01)
    better = report_world.write_seeds(tmp_path / "better", 3.0, 3.1, 3.2, lr=0.02)
    printed, _ = said(*first, *alike, *better)
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert any("alike − first" in line and line.endswith("within what seeds do") for line in lines)
    assert any("better − first" in line and line.endswith("better is better") for line in lines)


def test_one_seed_says_what_it_cannot_tell(tmp_path: Path) -> None:
    first = report_world.write_seeds(tmp_path / "first", 0.4, 0.1, -0.2)
    (alone,) = report_world.write_seeds(tmp_path / "alone", 0.5, lr=0.01)
    printed, page = said(*first, alone)
    text = " ".join(printed.split())
    told = "breed: the delta of alone/seed-0 is within what another seed of first would give (−1.39 … +1.59)."
    assert told in text
    assert "one seed of alone/seed-0" in text
    assert "One seed of alone/seed-0: the interval holds for these students on other rows." in text
    assert "distill-mtl distill RECIPE --seeds 3" in page
    text, _ = said(first[0], alone)
    assert "one seed each" in text


def test_the_page_of_all_seeds_stays_where_other_runs_are_compared(tmp_path: Path) -> None:
    seeds = report_world.write_seeds(tmp_path / "wide", 0.4, 0.1)
    (other,) = report_world.write_seeds(tmp_path / "other", 0.5, lr=0.01)
    quiet = Console(quiet=True)
    of_seeds = write_report(seeds, console=quiet)
    assert of_seeds == tmp_path / "wide" / "comparison.html"
    before = of_seeds.read_bytes()
    for runs in ([*seeds, other], [*seeds[1:], other]):
        assert write_report(runs, console=quiet) == tmp_path / "comparison.html"
    assert of_seeds.read_bytes() == before


def test_runs_belong_together_where_only_seed_name_and_a_found_rate_differ(tmp_path: Path) -> None:
    runs = [
        report_world.write_run(tmp_path / "a" / "seed-0", seed=0, lr=0.01, found_rate=True),
        report_world.write_run(tmp_path / "a" / "seed-1", seed=1, lr=0.02, found_rate=True),
        report_world.write_run(tmp_path / "given", seed=2, lr=0.01),
        report_world.write_run(tmp_path / "other", seed=3, lr=0.02),
        report_world.write_run(tmp_path / "again", seed=1, lr=0.05, found_rate=True),
        report_world.write_run(tmp_path / "unfinished", seed=5, lr=0.01, finished=False),
    ]
    found = by_recipe([read_run(run) for run in runs])
    assert [sorted(recipe.runs) for recipe in found] == [[0, 1], [2], [3]]
    assert [recipe.label for recipe in found] == ["a", "given", "other"]
    assert [run.label for run in found[0].repeated] == ["again"]
