"""The pages of docs/ say what the program does: every key of a recipe, its default, and recipes that load."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from distill_mtl import load_recipe
from distill_mtl.balance import rule_class, rule_names
from distill_mtl.distillation.term import all_terms
from distill_mtl.recipe import Recipe
from distill_mtl.tasks.base import KINDS

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "recipe.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = {"tasks": "NAME", "data": "SOURCE", "labels": "TASK"}
"""What the reference writes for the names that a user chooses, by the key that holds them."""

NOT_ALWAYS = (("recipe", "data"), ("tasks.NAME.teacher", "student"))
"""Keys that the schema requires and another form of the section does without."""

Row = tuple[str, ...]
Sections = dict[str, dict[str, FieldInfo]]


def test_every_key_of_the_schema_is_documented_and_no_other() -> None:
    documented = {path: sorted(rows) for path, rows in key_tables().items()}
    assert documented == {path: sorted(fields) for path, fields in sections().items()}


def test_documented_defaults_are_the_schemas() -> None:
    tables = key_tables()
    for path, fields in sections().items():
        for key, field in fields.items():
            said = tables[path][key][1]
            assert (said == "required") == (field.is_required() and (path, key) not in NOT_ALWAYS), (
                path,
                key,
            )
            if said.startswith("`") and said.endswith("`") and (path, key) != ("recipe", "balance"):
                default = field.get_default(call_default_factory=True)
                default = list(default) if isinstance(default, tuple) else default
                assert yaml.safe_load(said.strip("`")) == default, (path, key)


def test_every_choice_of_a_key_is_documented() -> None:
    tables = key_tables()
    for path, fields in sections().items():
        # A task's own data says no more than "see data.SOURCE".
        rows = tables[path] | (tables["data.SOURCE"] if path == "tasks.NAME.data" else {})
        for key, field in fields.items():
            row = " ".join(rows[key])
            missing = [choice for choice in choices(field.annotation) if f"`{choice}`" not in row]
            assert not missing, (path, key)


def test_every_balancing_rule_is_documented_with_its_options() -> None:
    rows = {quoted(row[0])[0]: row for row in table("Balancing rules")}
    assert sorted(rows) == rule_names()
    for name, row in rows.items():
        parameters = inspect.signature(rule_class("torchjd:MGDA" if name == "torchjd:" else name)).parameters
        known = [key for key in parameters if key not in ("tasks", "name", "options")]
        assert sorted(quoted(row[1])) == sorted(known), name


def test_every_loss_term_is_documented_with_its_default_weight() -> None:
    rows = {quoted(row[0])[0]: float(quoted(row[1])[0]) for row in table("Loss terms")}
    assert rows == {term.name: term.weight for term in all_terms() if ":" not in term.name}


def test_every_kind_of_task_is_documented_with_its_options() -> None:
    rows = {quoted(row[0])[0]: row for row in table("Kinds of task")}
    assert sorted(rows) == sorted(KINDS.names())
    for name, row in rows.items():
        kind = KINDS[name]
        known = [
            key for key in inspect.signature(kind).parameters if key not in ("classes", "metric", "head")
        ]
        assert quoted(row[1]) == kind.member.split(";")
        assert quoted(row[2]) == list(kind.metrics)
        assert quoted(row[3]) == known


def recipes() -> Iterator[Any]:
    for page in PAGES:
        for block in re.finditer(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
            if re.match(r"(#.*\n|name: .*\n|\s*\n)*student:", block[1]):
                line = page.read_text(encoding="utf-8")[: block.start()].count("\n") + 2
                yield pytest.param(block[1], id=f"{page.relative_to(ROOT)}:{line}")


@pytest.mark.parametrize("text", list(recipes()))
def test_a_recipe_on_a_page_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "page.yaml"
    path.write_text(text, encoding="utf-8")
    load_recipe(path)


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        prose = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose):
            file, _, anchor = target.partition("#")
            found = page.parent / file if file else page
            assert found.exists(), (page.name, target)
            if anchor:
                assert anchor in anchors(found), (page.name, target)


# ---- the schema as the reference lists it -----------------------------------------------------------
def sections() -> Sections:
    """Dotted path -> key -> field, of every section that a user may write."""
    found = {"recipe": dict(Recipe.model_fields)}
    for key, field in Recipe.model_fields.items():
        for path, fields in _sections_in(field.annotation, key):
            found[path] = found.get(path, {}) | fields
    task, source = found["tasks.NAME"], found["data.SOURCE"]
    # The one short form that is a section of its own: a task's data, with `member` in place of `labels`.
    own = {key: field for key, field in source.items() if key != "labels"}
    found["tasks.NAME.data"] = own | found["data.SOURCE.labels.TASK"]
    found["tasks.NAME"] = task | {"data": FieldInfo(annotation=str, default=None)}
    return found


def _sections_in(annotation: Any, path: str) -> Iterator[tuple[str, dict[str, FieldInfo]]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield path, {field.alias or key: field for key, field in annotation.model_fields.items()}
        for key, field in annotation.model_fields.items():
            yield from _sections_in(field.annotation, f"{path}.{key}")
        return
    if get_origin(annotation) is dict:
        path = f"{path}.{NAMES.get(path.rpartition('.')[2], '')}"
    for part in get_args(annotation):
        yield from _sections_in(part, path)


def choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    return [choice for part in get_args(annotation) for choice in choices(part)]


# ---- the reference as it is written -----------------------------------------------------------------
def key_tables() -> dict[str, dict[str, Row]]:
    """Dotted path in the heading -> key -> row, of the tables of keys."""
    found: dict[str, dict[str, Row]] = {}
    for heading, rows in tables().items():
        path = re.search(r"`([^`]+)`", heading)
        if path:
            found[path[1]] = {quoted(row[0])[0]: row for row in rows}
    return found


def table(heading: str) -> list[Row]:
    return tables()[heading]


def tables() -> dict[str, list[Row]]:
    """Heading -> rows of the table under it, header and rule left out."""
    found: dict[str, list[Row]] = {}
    heading = ""
    for line in REFERENCE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("#").strip()
        elif line.startswith("|"):
            found.setdefault(heading, []).append(tuple(cell.strip() for cell in line.strip("|").split(" | ")))
    return {heading: rows[2:] for heading, rows in found.items()}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
