"""The page's text: what it says, that it needs nothing, and that nothing of a run becomes markup."""

import hashlib
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_world

from distill_mtl.errors import UserError
from distill_mtl.evaluation.network_costs import BUSY
from distill_mtl.jobs.report import write_report
from distill_mtl.report import charts
from distill_mtl.report.headline import advice, headline
from distill_mtl.report.run_record import Curve, RunRecord, read_run


class _Tags(HTMLParser):
    """Collects (tag, attributes)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def _run(folder: Path, **tasks: object) -> RunRecord:
    return read_run(report_world.write_run(folder / "run", report_world.results(dict(tasks) or None)))


def test_every_id_is_there_once_and_every_reference_finds_its_id(tmp_path: Path) -> None:
    text = write_report(report_world.write_run(tmp_path / "run")).read_text()
    tags = _Tags(text).found
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for _, attributes in tags if str(attributes.get("href")).startswith("#")]
    links += re.findall(r"url\((#[^)]+)\)", text)
    assert links
    assert {str(link)[1:] for link in links} <= set(ids)


def test_the_page_holds_no_script_and_no_address(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    text = write_report(folder).read_text()
    tags = _Tags(text).found
    assert not {tag for tag, _ in tags} & {"script", "iframe", "object", "embed", "base"}
    for _, attributes in tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:"))
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_what_comes_from_a_run_is_no_markup(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    with (folder / "recipe.resolved.yaml").open("a") as recipe:
        recipe.write("note: '<script>alert(1)</script>'\n")
    text = write_report(folder).read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "owl <b>" not in text
    assert "owl &lt;b&gt;" in text


def test_the_verdict_is_one_sentence_of_plain_words(tmp_path: Path) -> None:
    run = _run(tmp_path, left=report_world.task(), right=report_world.task())
    sentence, tone = headline(run)
    assert tone == "good"
    assert re.fullmatch(r"One student replaces 2 teachers\b.*\.", sentence)
    assert re.search(r"both tasks.*margin 1 point.*0\.50× .*parameters.*0\.50× .*latency", sentence)
    assert ". " not in sentence
    assert advice(run) == []


def test_an_undecided_task_is_named_with_the_rows_that_would_decide(tmp_path: Path) -> None:
    open_ = report_world.task(ci95=[-1.4, 0.4])
    run = _run(tmp_path, left=report_world.task(), right=open_)
    sentence, tone = headline(run)
    assert tone == "unsure"
    assert "cannot tell for right" in sentence
    assert run.results is not None
    assert run.results.tasks["right"].rows_to_decide == 3932
    assert advice(run) == ["right: about 4,000 more labelled test rows would decide."]


def test_an_inferior_task_is_named_with_the_margin_that_would_do(tmp_path: Path) -> None:
    lost = report_world.task(verdict="inferior", delta=-4.0, ci95=[-5.21, -3.0])
    run = _run(tmp_path, left=report_world.task(), right=lost)
    sentence, tone = headline(run)
    assert tone == "bad"
    assert "4.00 points in right" in sentence
    assert "as good in 1 of 2 tasks" in sentence
    assert "5.3 points in right" in advice(run)[0]


def test_the_point_rule_judges_the_difference_alone(tmp_path: Path) -> None:
    kept = report_world.task(verdict="non-inferior", delta=-1.0, ci95=[-4.0, 2.0])
    content = report_world.results({"left": kept}, acceptance={"rule": "point", "margin": {"left": 1.0}})
    run = read_run(report_world.write_run(tmp_path / "run", content))
    assert headline(run)[1] == "good"
    assert "kept" in write_report(run.files.path).read_text()


def test_without_teachers_there_are_scores_and_nothing_to_judge(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("teacher", "delta", "ci95", "agreement", "verdict", "mcnemar", "classes"))
    alone = report_world.task(**nothing, ece={"student": 2.0, "teacher": None}, disagreements=[])
    content = report_world.results({"left": alone}, cross_domain={}, baselines={})
    content["cost"] |= {"teachers": None, "each": {}}
    run = read_run(report_world.write_run(tmp_path / "run", content))
    assert "labels only" in headline(run)[0]
    text = write_report(run.files.path).read_text()
    assert 'id="deltas"' not in text
    assert 'id="cost"' in text


def test_an_interrupted_run_shows_how_far_it_came(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run", finished=False)
    with (folder / "metrics.jsonl").open("a") as log:
        log.write('{"step": 61, "tas')
    text = write_report(folder).read_text()
    assert "Not finished: step 60 of 120" in text
    assert 'id="losses"' in text
    assert 'id="recipe"' in text
    assert 'id="tasks"' not in text


def test_tasks_of_different_units_do_not_share_an_axis(tmp_path: Path) -> None:
    text = write_report(report_world.write_run(tmp_path / "run")).read_text()
    assert "student − teacher, points" in text
    assert "student − teacher, rmse of range" in text


def test_pictures_are_in_the_page_with_words_for_those_who_do_not_see_them(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    images = [found for tag, found in _Tags(write_report(folder).read_text()).found if tag == "img"]
    assert len(images) == 5
    assert {image["alt"] for image in images} == {
        *("image", "label: 1 to 2", "teacher: 1 to 2", "student: 1 to 2")
    }


def test_the_markdown_has_the_same_facts(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    (folder / "pictures.png").touch()
    write_report(folder)
    text = (folder / "report.md").read_text()
    assert "One student replaces 2 teachers" in text
    assert (
        "| breed (accuracy) | 90.00 | 89.50 | −0.50 | ✓ non-inferior | −0.90 … +0.20 | 95.0 % | 1.5 → 2.5 | 500 |"
        in text
    )
    assert "(pictures.png)" in text
    assert "<b>" not in text.replace("\\<b>", "")
    assert "<svg" not in text


def test_the_markdown_names_the_recipe_by_its_digest_and_leaves_out_columns_that_say_nothing(
    tmp_path: Path,
) -> None:
    alone = report_world.task(agreement=None, ece=None)
    folder = report_world.write_run(tmp_path / "run", report_world.results({"breed": alone}))
    write_report(folder)
    text, recipe = (folder / "report.md").read_text(), folder / "recipe.resolved.yaml"
    assert f"sha256 {hashlib.sha256(recipe.read_bytes()).hexdigest()}" in text.replace("\\_", "_")
    assert "recipe.resolved.yaml, " in text
    assert "optimizer: {lr" not in text
    assert "| task | teacher | student | delta | verdict | 95 % interval | rows |" in text
    assert "optimizer: {lr" in (folder / "report.html").read_text()


def test_a_comparison_names_the_runs_and_the_keys_in_which_their_recipes_differ(tmp_path: Path) -> None:
    first = report_world.write_run(tmp_path / "a")
    lost = report_world.task(verdict="inferior", delta=-4.0, ci95=[-5.0, -3.0])
    content = report_world.results({"breed": lost, "extra": report_world.task()}, accepted=False)
    second = report_world.write_run(tmp_path / "b", content, lr=0.01)
    page = write_report([first, second])
    assert page == tmp_path / "comparison.html"
    text = page.read_text()
    assert "a is accepted, of 2 runs." in text
    assert "breed · b" in text
    assert "−4.00 ✗" in text
    recipes = text[text.index('id="recipes"') :]
    assert "optimizer.lr" in recipes
    assert "training.steps" not in recipes
    assert "tasks.extra<" in recipes
    assert "tasks.extra.kind" not in recipes, "a part that one run lacks altogether is one line"


def test_teachers_stand_beside_runs_only_where_they_are_the_same(tmp_path: Path) -> None:
    first = report_world.write_run(tmp_path / "a")
    content = report_world.results()
    same = report_world.write_run(tmp_path / "b", content)
    content["cost"]["teachers"]["parameters"] += 1
    other = report_world.write_run(tmp_path / "c", content)
    assert "teachers " in _cost(write_report([first, same]))
    assert "teachers " not in _cost(write_report([first, other]))


def _cost(page: Path) -> str:
    """The words of the chart of what runs take."""
    text = page.read_text()
    return re.sub(
        "<[^>]*>", " ", text[text.index("<svg", text.index('id="cost"')) : text.index('id="losses"')]
    )


def test_a_comparison_sets_each_student_beside_its_own_teachers_and_says_where_it_was_measured(
    tmp_path: Path,
) -> None:
    busy = report_world.results()
    for network in ("student", "teachers"):
        busy["cost"][network]["latency_ms"] *= 3
    busy["cost"]["machine"] += ", busy with other work: measure again when it is quiet"
    runs = [report_world.write_run(tmp_path / "a"), report_world.write_run(tmp_path / "b", busy)]
    page = write_report(runs)
    text = page.read_text()
    cost = text[text.index('id="cost"') : text.index('id="losses"')]
    row = re.search('<th scope="row" class="left ">latency of one image</th>(.*?)</tr>', cost, re.DOTALL)
    assert row is not None
    assert re.findall(r"[\d.]+×", row[1]) == ["0.50×", "0.50×"]
    assert "1.50 ms ÷ 3.00 ms" in row[1]
    assert "4.50 ms ÷ 9.00 ms" in row[1]
    assert "measured at different times" in cost
    assert cost.count("busy with other work") == 1
    assert " ms" not in _cost(page), "times of different hours do not stand side by side"


def test_only_agreement_that_is_notably_lower_than_at_home_is_tinted(tmp_path: Path) -> None:
    """At home 95 %: more than 10 points below, and of 16 rows more than 1 / sqrt(16)."""
    seen = {"higher": (100, 0.97), "near": (100, 0.86), "few": (16, 0.75), "lost": (100, 0.84)}
    domains = {source: {"rows": rows, "agreement": share} for source, (rows, share) in seen.items()}
    folder = report_world.write_run(tmp_path / "run", report_world.results(cross_domain={"breed": domains}))
    text = write_report(folder).read_text()
    section = text[text.index('id="domains"') : text.index('id="baselines"')]
    assert re.findall('class="[^"]*heat"[^>]*>([^<]*)<', section) == ["84.0 %"]


def test_a_folded_title_is_html_in_markdown(tmp_path: Path) -> None:
    tasks = {"breed_of<b>": report_world.task()}
    write_report(report_world.write_run(tmp_path / "run", report_world.results(tasks)))
    summaries = re.findall("<summary>(.*)</summary>", (tmp_path / "run" / "report.md").read_text())
    assert any("breed_of&lt;b&gt;" in summary for summary in summaries)


def test_equal_names_of_runs_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [report_world.write_run(tmp_path / parent / "run") for parent in ("x", "y")]
    text = write_report(folders).read_text()
    assert "x/run" in text
    assert "y/run" in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "recipe.resolved.yaml").unlink(), "recipe.resolved.yaml"),
        (lambda folder: (folder / "results.json").write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / "results.json").write_text('{"tasks": {}}'), "no format"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path, spoil: object, message: str) -> None:
    folder = report_world.write_run(tmp_path / "run")
    spoil(folder)  # type: ignore[operator]
    with pytest.raises(UserError, match=message) as refused:
        write_report(folder)
    assert "\n" not in str(refused.value)


def test_a_run_is_not_compared_with_itself(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    with pytest.raises(UserError, match="itself"):
        write_report([folder, folder])


def test_a_page_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"--to: .*metrics\.jsonl/page\.html"):
        write_report(folder, to=folder / "metrics.jsonl" / "page.html")


def test_the_style_sheet_has_a_variable_for_every_colour_of_a_chart() -> None:
    from distill_mtl.report import charts as colors

    style = (Path(colors.__file__).parent / "templates" / "style.css").read_text()
    for scheme in style.split(":root {")[1:]:
        named = set(re.findall(r"--([\w-]+):", scheme.split("}")[0]))
        assert set(colors.VARIABLES.values()) <= named


def test_times_of_a_busy_machine_are_not_in_the_headline(tmp_path: Path) -> None:
    said = {}
    for name, ending in (("quiet", ""), ("busy", BUSY)):
        results = report_world.results()
        results["cost"]["machine"] += ending
        write_report(report_world.write_run(tmp_path / name, results))
        said[name] = (tmp_path / name / "report.md").read_text().partition("\n## ")[0]
    assert "the latency" in said["quiet"]
    assert "the parameters" in said["busy"]
    assert "latency" not in said["busy"]
    assert "rows per second" not in said["busy"]


@pytest.mark.parametrize("name", ["segment+attributes+objects/attributes", "a" * 5000])
def test_long_names_in_a_legend_leave_room_for_the_curves(name: str) -> None:
    curve = Curve(np.arange(4), np.ones(4))
    drawn = [charts.Line(f"{name}{number}", curve, charts.QUIET) for number in range(6)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns where it gives up
        assert charts.lines("weights", "Weights", drawn).svg.startswith("<svg")
