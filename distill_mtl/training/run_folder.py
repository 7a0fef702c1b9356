"""The folder of one run: when it may be written, what must be equal to resume a run, and its origin.

teachers.json says what was really loaded, by file and hash, with each teacher's score in the check and its precision;
environment.json has versions, processes, time and rule of the last start, which the report names.
"""

import copy
import difflib
import json
import math
import platform
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distill_mtl.errors import UserError, a_few
from distill_mtl.files import half_made, remove_half_made, write_text
from distill_mtl.reading import Remedy, loads, read_json, read_text
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.yaml_reader import parse_yaml, read_yaml
from distill_mtl.run_files import RunFiles
from distill_mtl.run_notes import ResolvedRecipe, read_environment, read_teachers
from distill_mtl.system_errors import naming
from distill_mtl.targets.facts import Teachers
from distill_mtl.training.run_bucket import RunBucket
from distill_mtl.training.target_providers import self_taught, settle_targets

_PACKAGES = ("distill_mtl", "torch", "torchvision", "timm", "accelerate", "webdataset", "numpy")
_RECIPE = Remedy(
    "It is what the run wrote: start again with --overwrite, or choose another folder with --out."
)


class RunFolder(RunFiles):
    """The folder `runs/NAME` of one run.

    Args:
        path: the folder; it need not exist yet.
        bucket: where `commit` sends it.
    """

    def __init__(self, path: Path, bucket: RunBucket | None = None) -> None:
        super().__init__(path)
        self.bucket = bucket

    @property
    def place(self) -> str:
        """Where the run is, for people."""
        return str(self.path) if self.bucket is None else self.bucket.url

    def commit(self) -> None:
        """Send what changed to the bucket, if the run is in one; called by one process alone.

        Raises:
            UserError: the bucket cannot be written to.
        """
        if self.bucket is not None:
            self.bucket.commit()

    def baseline(self, name: str) -> "RunFolder":
        """The run folder of one of this run's baselines."""
        return RunFolder(self.baselines / name)

    def refuse(self, recipe: str, *, resume: bool, overwrite: bool) -> None:
        """Refuse a run of `recipe` (its resolved text) that would lose or mix something. Writes nothing.

        Raises:
            UserError: the folder holds something and neither `resume` nor `overwrite` was asked for; it
                holds no run; or it holds a run of another recipe, whose difference is shown.
        """
        if not self.path.exists() or set(self.path.iterdir()) <= set(half_made(self.path, "*")):
            if resume:
                raise UserError(f"{self.path} has no run to continue. Check --out, or leave out --resume.")
            return
        if not self.recipe.exists():
            raise UserError(
                f"{self.path} is not empty and is not a run folder: it has no {self.recipe.name}. "
                "Choose another folder with --out."
            )
        if resume:
            _refuse_other(
                f"{self.path} was started with another recipe",
                *map(_what_trains, (read_text(self.recipe, remedy=_RECIPE), recipe)),
            )
        elif not overwrite:
            raise UserError(
                f"{self.path} already holds a run. Continue with --resume, start again with --overwrite "
                "(deletes it), or choose another folder with --out."
            )

    def decided(self, recipe: Recipe) -> Recipe:
        """The recipe with what it leaves to `auto` as the run in this folder decided it; as it is without a run."""
        if not self.recipe.exists():
            return recipe
        before: dict[str, Any] = read_yaml(self.recipe, ResolvedRecipe, remedy=_RECIPE)
        origin = (before.get("targets") or {}).get("from")
        if origin in ("live", "cached"):
            recipe = settle_targets(recipe, origin)
        try:
            return Recipe.model_validate(_decided(recipe.model_dump(mode="json", by_alias=True), before))
        except ValidationError:  # the file is not as it was written: `refuse` shows the difference
            return recipe

    def clear(self) -> None:
        """Delete what a run writes here but the recipe, by which the folder is known to be ours."""
        for folder in (self.checkpoints, self.student, self.for_int8, self.examples, self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (
            *(self.metrics, self.results, self.pictures, self.report, self.report_markdown),
            *(self.environment, self.shards, self.teachers),
        ):
            file.unlink(missing_ok=True)

    def begin(self, recipe: str, *, resume: bool) -> None:
        """Make the folder ready. Without `resume` an earlier run in it is deleted: call `refuse` first.

        Raises:
            UserError: the bucket of the run cannot be written to.
        """
        if self.bucket is not None:
            self.bucket.take()
        if not resume:
            self.clear()
            self.recipe.unlink(missing_ok=True)
        with naming(self.path, every=True):
            self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path, self.checkpoints):  # which one run alone writes
            remove_half_made(folder, "*")
        write_text(self.recipe, recipe)

    def note_rate(self, recipe: str, said: str, curve: Sequence[tuple[float, float]]) -> None:
        """Write how the rate was found, and then the resolved recipe that holds it: resuming needs no search.

        Args:
            recipe: its text.
            said: one sentence.
            curve: rate and loss of each step of the search.
        """
        finite = [point for point in curve if math.isfinite(point[1])]
        environment = {**read_environment(self.environment), "rate": {"said": said, "curve": finite}}
        write_text(self.environment, json.dumps(environment, indent=2) + "\n")
        write_text(self.recipe, recipe)

    def same_teachers(self, teachers: dict[str, Any]) -> None:
        """Refuse to resume with other teacher weights than the run began with.

        Args:
            teachers: task -> what describes its teacher, without the score of the check.

        Raises:
            UserError: shows what changed.
        """
        if self.teachers.exists():
            before = read_teachers(self.teachers)
            known = {
                task: {key: entry.get(key) for key in teachers.get(task, entry)}
                for task, entry in before.items()
            }
            _refuse_other(
                f"{self.path} was started with other teachers",
                json.dumps(known, indent=2, sort_keys=True),
                json.dumps(teachers, indent=2, sort_keys=True),
            )

    def note_shards(self, states: Mapping[str, Mapping[str, str]]) -> None:
        """Write what streamed shards are, where a run has some.

        Args:
            states: source -> URL -> ETag, or size and time.
        """
        if states:
            write_text(self.shards, json.dumps(states, indent=1) + "\n")

    def same_shards(self, states: Mapping[str, Mapping[str, str]]) -> None:
        """Refuse to resume with other shards than the run began with.

        Args:
            states: as they are now; see `note_shards`.

        Raises:
            UserError: names the first that was replaced.
        """
        if not self.shards.exists():
            return
        before = read_json(self.shards, dict[str, dict[str, str]])
        for source, now in states.items():
            then = before.get(source, {})
            other = [url for url in {**then, **now} if then.get(url) != now.get(url)]
            if other:
                was, found = (side.get(other[0], "not there") for side in (then, now))
                verb = "was" if len(other) == 1 else "were"
                raise UserError(
                    f"data.{source}: {a_few(other, 3)} {verb} replaced since the run in {self.path} began: the first "
                    f"was {was} and is {found}. Put back what was there, or start again with --overwrite."
                )

    def cut_metrics(self, step: int) -> None:
        """Drop logged lines after `step` (and a half-written last line), which a resumed run writes again."""
        if self.metrics.exists():
            lines = read_text(self.metrics, 1 << 30).splitlines()
            write_text(self.metrics, "".join(f"{line}\n" for line in lines if _step_of(line) <= step))


def describe_teachers(recipe: Recipe, teachers: Teachers) -> dict[str, dict[str, Any]]:
    """Who teaches each task that has a teacher: its file, sha256, classes and input, or `self`."""
    own = {task: {"self": section.student} for task, section in self_taught(recipe).items()}
    return {task: card.describe() for task, card in teachers.cards.items()} | own


def write_teachers(
    path: Path,
    described: Mapping[str, dict[str, Any]],
    scores: Mapping[str, float | None],
    precisions: Mapping[str, str],
) -> None:
    """Write what describes each teacher, its score in the check, and its targets' precision.

    Args:
        path: of the file.
        described: by `describe_teachers`.
        scores: task -> score; None where the check had no rows to measure it on.
        precisions: task -> of its targets, for the tasks of `scores`.
    """
    entries = {task: dict(entry) for task, entry in described.items()}
    for task, score in scores.items():
        entries[task]["score"] = score
        entries[task]["precision"] = precisions[task]
    write_text(path, json.dumps(entries, indent=2) + "\n")


def read_precisions(path: Path) -> dict[str, str]:
    """The precision in which each teacher of a run makes its targets; nothing where the run wrote none."""
    entries = read_teachers(path)
    return {task: entry["precision"] for task, entry in entries.items() if "precision" in entry}


def write_environment(path: Path, *, processes: int, balance: str) -> None:
    """Write it anew, but for how the rate was found; a run that goes on elsewhere is of the later place.

    Args:
        path: of the file.
        processes: that train together.
        balance: which balancing rule was taken, and why.
    """
    entry: dict[str, Any] = {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "processes": processes,
        "balance": balance,
        **{key: value for key, value in read_environment(path).items() if key == "rate"},
        "versions": {"python": platform.python_version(), **_versions(_PACKAGES)},
    }
    write_text(path, json.dumps(entry, indent=2) + "\n")


def _step_of(line: str) -> float:
    try:
        return float(loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _what_trains(recipe: str) -> str:
    """A resolved recipe without what may change when a run goes on, because it does not change the weights."""
    content: dict[str, Any] = parse_yaml(recipe, ResolvedRecipe, "recipe.resolved.yaml", remedy=_RECIPE)
    return yaml.safe_dump(what_trains(content), sort_keys=False)


def what_trains(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a resolved recipe that decides the weights."""
    content = copy.deepcopy(dict(recipe))
    for key in ("evaluation", "acceptance"):
        content.pop(key, None)
    for key in ("workers", "log_every", "checkpoint_every", "keep", "trackers"):
        (content.get("training") or {}).pop(key, None)
    for source in (content.get("data") or {}).values():
        source.pop("corrupt", None)
        source.pop("store", None)
    return content


def _decided(value: Any, before: Any) -> Any:
    """A value of a recipe, with what stood in its place before wherever it is open (`auto`, with options or without; or
    the weights of teachers that are `weighted`)."""
    if isinstance(value, dict) and list(value) == ["auto"]:
        return before
    if isinstance(value, dict) and isinstance(before, dict):
        return {key: _decided(child, before.get(key, child)) for key, child in value.items()}
    if isinstance(value, list) and isinstance(before, list) and len(value) == len(before):
        return [_decided(*pair) for pair in zip(value, before, strict=True)]
    return before if value in ("auto", "weighted") else value


def _refuse_other(what: str, before: str, now: str) -> None:
    if before == now:
        return
    difference = difflib.unified_diff(before.splitlines(), now.splitlines(), "then", "now", lineterm="", n=0)
    changed = [line for line in difference if not line.startswith("@@")]
    raise UserError(
        f"{what}:\n"
        + "\n".join(f"  {line}" for line in changed)
        + "\nTo resume, use what it was started with; or start again with --overwrite, or elsewhere with --out."
    )


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "from a checkout that is not installed"
    return found
