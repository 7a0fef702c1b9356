"""The page in a real browser, offline."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import report_world
from browser import chromium
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from distill_mtl.jobs.report import write_report

SECTIONS = [
    *(
        "tasks",
        "deltas",
        "classes",
        "cost",
        "domains",
        "baselines",
        "losses",
        "balance",
        "disagreements",
        "maps",
    ),
    *("recipe", "manifest", "repeat", "worth", "findings"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages that stand alone in a folder each: whatever they need beside them is missing."""
    folder = tmp_path_factory.mktemp("runs")
    many = {f"task_{number:02d}": report_world.task() for number in range(11)}
    many["task_with_slices"] = report_world.task_with_slices()
    runs = {
        "one": report_world.write_run(folder / "one"),
        "other": report_world.write_run(folder / "a_run_with_quite_a_long_name", lr=0.01),
        "many": report_world.write_run(folder / "many", report_world.results(many)),
        "unfinished": report_world.write_run(folder / "unfinished", finished=False),
        "tree": report_world.write_run(folder / "tree", report_world.results_of_a_tree()),
    }
    found = {
        name: write_report(runs[name], to=_alone(folder, name))
        for name in ("one", "many", "unfinished", "tree")
    }
    seeds = [
        run
        for recipe, deltas, lr in (("wide", (0.4, 0.1, -0.3), 0.001), ("narrow", (-0.9,), 0.01))
        for run in report_world.write_seeds(folder / recipe, *deltas, lr=lr)
    ]
    found["seeds"] = write_report(seeds, to=_alone(folder, "seeds"))
    found["comparison"] = write_report(list(runs.values()), to=_alone(folder, "comparison"))
    return found


def _alone(folder: Path, name: str) -> Path:
    alone = folder / f"{name}-alone"
    alone.mkdir()
    return alone / "page.html"


@pytest.mark.parametrize("name", ["one", "many", "unfinished", "tree", "comparison", "seeds"])
def test_a_page_fits_its_window_and_asks_for_nothing(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    page = browser.new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = pages[name].as_uri()
    page.goto(address)
    for opened in (False, True):
        page.evaluate(
            f"document.querySelectorAll('details').forEach(each => each.open = {str(opened).lower()})"
        )
        for scheme, width in itertools.product(("light", "dark"), (390, 1280)):
            page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
            page.set_viewport_size({"width": width, "height": 844})
            fits = page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
            assert fits, (scheme, width, opened)
            assert _broken_pictures(page) == 0
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]
    page.close()


def _broken_pictures(page: Page) -> int:
    count: int = page.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
    return count


def test_every_section_is_there_in_order_with_a_heading_and_a_line_in_the_contents(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = browser.new_page()
    page.goto(pages["one"].as_uri())
    assert page.locator("main > section").evaluate_all("all => all.map(each => each.id)") == SECTIONS
    for name in SECTIONS:
        assert page.locator(f"#{name} > h2").is_visible()
        assert page.locator(f"#{name}").bounding_box()["height"] > 60
        assert page.locator(f"nav a[href='#{name}']").count() == 1
    page.close()


def test_charts_have_names_and_are_drawn_with_the_colours_of_the_page(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = browser.new_page()
    page.goto(pages["one"].as_uri())
    charts = page.locator("svg[role=img]")
    assert charts.count() >= 8
    for number in range(charts.count()):
        chart = charts.nth(number)
        title = chart.locator("title").first
        assert chart.get_attribute("aria-labelledby") == title.get_attribute("id")
        assert title.text_content()
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 60
    strokes = page.locator("#deltas svg path").evaluate_all(
        "all => all.map(each => getComputedStyle(each).stroke)"
    )
    student = page.evaluate(
        "(() => { const probe = document.createElement('i'); probe.style.color = 'var(--student)';"
        "document.body.append(probe); return getComputedStyle(probe).color })()"
    )
    assert student in strokes
    page.close()


def test_no_chart_draws_outside_its_page(browser: Browser, pages: dict[str, Path]) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    for name in ("one", "many", "tree", "comparison", "seeds"):
        page.goto(pages[name].as_uri())
        outside = page.locator("svg text").evaluate_all(
            "all => all.filter(each => { const box = each.getBoundingClientRect();"
            "return box.left < 0 || box.right > innerWidth }).map(each => each.textContent)"
        )
        assert outside == [], name
    context.close()


def test_on_a_telephone_charts_can_be_read_and_a_cut_table_shows_that_it_goes_on(
    browser: Browser, pages: dict[str, Path]
) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(pages["one"].as_uri())
    heights = page.locator("main svg text").evaluate_all(
        "all => all.filter(each => each.textContent.trim()).map(each => "
        "parseFloat(getComputedStyle(each).fontSize) * each.ownerSVGElement.getScreenCTM().a)"
    )
    assert min(heights) > 9.9
    table = page.locator("#tasks .scroll").first
    assert table.evaluate("each => each.scrollWidth > each.clientWidth + 20")
    assert _brightness_at_the_right(page, table) < 230
    table.evaluate("each => each.scrollLeft = each.scrollWidth")
    assert _brightness_at_the_right(page, table) > 245
    page.close()


def _brightness_at_the_right(page: Page, table: Locator) -> int:
    """Of the last column of pixels the usual brightness: neither letters nor rules, but the shade."""
    shot = Image.open(io.BytesIO(table.screenshot())).convert("L")
    return int(np.median(np.asarray(shot)[:, -2]))


@pytest.mark.parametrize("width", [390, 1280])
def test_the_words_of_a_tree_stand_inside_its_boxes_and_can_be_read(
    browser: Browser, pages: dict[str, Path], width: int
) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    page.goto(pages["tree"].as_uri())
    chart = page.locator("#cost svg").nth(1)
    found = chart.evaluate(
        """chart => {
            const box = each => { const {left, right, top, bottom} = each.getBoundingClientRect();
                                  return {left, right, top, bottom} };
            return {
                words: [...chart.querySelectorAll('text')].map(each => ({
                    said: each.textContent.trim(), ...box(each),
                    size: parseFloat(getComputedStyle(each).fontSize) * chart.getScreenCTM().a})),
                boxes: [...chart.querySelectorAll('[id*=patch] path')].map(box)}}"""
    )
    words = [each for each in found["words"] if each["said"]]
    assert min(each["size"] for each in words) > 9.9
    for said in ("8.39 M", "411 M", "12.34 ms"):
        inside = [each for each in words if each["said"] == said]
        assert len(inside) == 8
        for each in inside:
            assert any(
                box["left"] <= each["left"]
                and each["right"] <= box["right"] + 1
                and box["top"] <= each["top"] + 3
                and each["bottom"] <= box["bottom"] + 3
                for box in found["boxes"]
            ), said
    page.close()


def test_a_printed_page_opens_what_is_folded(browser: Browser, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.goto(pages["one"].as_uri())
    assert not page.locator("#recipe pre").is_visible()
    page.emulate_media(media="print")
    assert page.locator("#recipe pre").bounding_box()["height"] > 60
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000
    page.close()
