"""A recipe's file to a `Recipe`: the one way in, for the command line and for library users."""

from collections.abc import Sequence
from pathlib import Path

from distill_mtl.errors import RecipeError
from distill_mtl.recipe.defaults import fill_defaults
from distill_mtl.recipe.findings import Finding, report
from distill_mtl.recipe.known import NOTHING, Known
from distill_mtl.recipe.lines import Document, YamlSyntaxError, read_document
from distill_mtl.recipe.overrides import apply_overrides
from distill_mtl.recipe.paths import absolute_paths
from distill_mtl.recipe.rules import check_rules
from distill_mtl.recipe.schema import Recipe
from distill_mtl.recipe.shorthand import expand
from distill_mtl.recipe.validation import validate


def load_recipe(path: Path | str, overrides: Sequence[str] = (), *, known: Known = NOTHING) -> Recipe:
    """Read a recipe, apply `--set` overrides, write out short forms and defaults, and check it all.

    Reads the one file and nothing else: teachers and shards need not exist. Paths in the result are
    absolute, from the working directory.

    Args:
        path: the YAML file.
        overrides: `key.path=value`, the value in YAML; the last one of a key wins.
        known: what only other parts of the program know, so that a wrong name is reported with its line.

    Raises:
        RecipeError: with every mistake of the file and the overrides, or because it cannot be read.
    """
    document = _read(Path(path))
    apply_overrides(document, overrides)
    form = expand(document.value)
    fill_defaults(form, Path(path).stem, known)
    recipe, invalid = validate(form)
    contradictions = [Finding(form.origin(one.path), one.text) for one in check_rules(form.value, known)]
    unread = {finding.path for finding in document.findings}
    findings = [one for one in (*form.findings, *invalid, *contradictions) if one.path not in unread]
    findings += document.findings
    if recipe is None or findings:
        raise report(str(path), findings, document.place)
    return absolute_paths(recipe)


def _read(path: Path) -> Document:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        reason = error.strerror or error
        raise RecipeError(f"Recipe {path} cannot be read: {reason}. Give the path of a YAML file.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(
            f"Recipe {path} is not UTF-8 text (byte {error.start}). Save it as UTF-8."
        ) from error
    try:
        return read_document(text)
    except YamlSyntaxError as error:
        problem = Finding((), f"not valid YAML: {error}. Check indentation, colons and quotes.", error.line)
        raise report(str(path), [problem], Document().place) from error
