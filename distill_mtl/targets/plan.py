"""The plan of a recipe's cache: one sidecar per teacher for every shard with training rows.

Writing, verifying and training all start from this plan, so what is written is what is looked for. A sidecar's
identity is everything that its numbers depend on: it stands in the header as text, and its hash in the file's name,
so the caches of different recipes lie side by side. Sidecars lie beside their shard, or in the user's cache folder
where that is not writable (`SidecarFolders`).
"""

import hashlib
import json
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distill_mtl.data.source import ShardRows, Source
from distill_mtl.files import cache_folder
from distill_mtl.geometry.views import Size
from distill_mtl.recipe.schema import task_of
from distill_mtl.targets.encoding import AnswerCodec
from distill_mtl.targets.facts import TeacherFacts
from distill_mtl.targets.sidecar import Slot, sidecar_size

BOXES, FLIPS = "boxes", "flips"
Metadata = Mapping[str, str]

FORMAT, VERSION = "distill_mtl targets", "1"
TEACHER = "teacher"  # the facts, from which a changed teacher is explained

_KEYS = {
    "store.logits": "targets.logits",
    "store.top_k": "targets.top_k",
    "store.features": "targets.features",
    "store.hidden": "hidden features",
    "views.count": "targets.views",
    "views.size": "image size",
    "views.resize": "resize",
    "views.crop": "augment.crop",
    "views.flip": "augment.flip",
    "views.seed": "seed",
    "views.source": "name of the source",
}
"""Header -> what a user knows it as."""
SIDECAR_ENDING = ".safetensors"


@dataclass(frozen=True)
class Wanted:
    """One sidecar as a recipe wants it.

    Attributes:
        shard: and its training rows.
        teacher: its name.
        codec: the teacher's.
        views: of each row.
        identity: what the contents depend on.
    """

    shard: ShardRows
    teacher: str
    codec: AnswerCodec
    views: int
    identity: Mapping[str, str]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve digits that stand for the identity."""
        return fingerprint(self.identity)

    @property
    def name(self) -> str:
        """Of the file."""
        return file_name(self.shard.path, task_of(self.teacher), self.fingerprint)

    @property
    def metadata(self) -> dict[str, str]:
        """The header's text: the identity, and the facts of the teacher."""
        return {**self.identity, "task": task_of(self.teacher), TEACHER: self.codec.facts.json}

    @property
    def tensors(self) -> dict[str, Slot]:
        """Every tensor of the file: [N, V, ...] for N rows in shard order under V views."""
        slots = {
            **self.codec.slots,
            BOXES: Slot(np.dtype(np.int32), (4,)),
            FLIPS: Slot(np.dtype(np.uint8), ()),
        }
        rows = (len(self.shard.rows), self.views)
        return {name: Slot(slot.dtype, (*rows, *slot.shape)) for name, slot in slots.items()}

    @cached_property
    def size(self) -> int:
        """Of the file in bytes, but for a few that say how it was made."""
        return sidecar_size(self.metadata, self.tensors, (BOXES, FLIPS))


@dataclass(frozen=True)
class Unit:
    """One shard and the sidecars of all teachers: what a process does in one go.

    Attributes:
        source: number of the data set.
        shard: and its training rows.
        files: name of a teacher -> its sidecar.
    """

    source: int
    shard: ShardRows
    files: Mapping[str, Wanted]


def plan_cache(
    sources: Sequence[Source], codecs: Mapping[str, AnswerCodec], *, views: int, size: Size, seed: int
) -> list[Unit]:
    """The units of a recipe, in the order of its sources and their shards; the same on every process.

    Args:
        sources: all data sets.
        codecs: name of a teacher -> its codec.
        views: of each row.
        size: height and width of the images.
        seed: of the recipe.
    """
    units = []
    for number, source in enumerate(sources):
        for shard in source.by_shard("train"):
            files = {
                name: Wanted(
                    shard,
                    name,
                    codec,
                    views,
                    identity(shard, source, codec, views=views, size=size, seed=seed),
                )
                for name, codec in codecs.items()
            }
            units.append(Unit(number, shard, files))
    return units


def identity(
    shard: ShardRows, source: Source, codec: AnswerCodec, *, views: int, size: Size, seed: int
) -> dict[str, str]:
    """Everything that the contents of one sidecar depend on.

    Args:
        shard: and which of its rows are cached.
        source: that they belong to.
        codec: of the teacher, and how its answers are kept.
        views: of each row.
        size: height and width of the images.
        seed: of the recipe.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "teacher.fingerprint": codec.facts.card.fingerprint,
        **{f"store.{key}": _text(value) for key, value in codec.describe().items()},
        **{f"views.{key}": _text(value) for key, value in _views(source, views, size, seed).items()},
        "shard.size": _text(shard.size),
        "shard.pictures": shard.pictures,
        "rows.count": _text(len(shard.rows)),
        "rows.keys": shard.keys,
    }


def fingerprint(wanted: Metadata) -> str:
    """Twelve hexadecimal digits for the file's name."""
    return hashlib.sha256(json.dumps(dict(wanted), sort_keys=True).encode()).hexdigest()[:12]


def differences(found: Metadata, wanted: Metadata, facts: TeacherFacts) -> list[str]:
    """What must change for a header to be the one that is wanted, a clause each; none where it is.

    Args:
        found: the whole header.
        wanted: the identity.
        facts: of the teacher as it is now.
    """
    if found.get("format") != FORMAT:
        return ["it was not written by `distill-mtl cache`"]
    if found.get("version") != VERSION:
        return [f"it has version {found.get('version')} of the format, this program writes {VERSION}"]
    return list(_clauses(found, wanted, facts))


def _clauses(found: Metadata, wanted: Metadata, facts: TeacherFacts) -> Iterator[str]:
    different = [key for key in dict.fromkeys([*wanted, *_KEYS]) if found.get(key) != wanted.get(key)]
    if "teacher.fingerprint" in different:
        yield _teacher(found, facts)
    if "shard.size" in different:
        yield f"the shard had {found.get('shard.size')} bytes when it was cached and has {wanted['shard.size']} now"
    elif "shard.pictures" in different:
        yield "other pictures of the shard are read, or it was written anew since"
    if "rows.count" in different:
        yield f"its training rows were {found.get('rows.count')} when it was cached and are {wanted['rows.count']} now"
    elif "rows.keys" in different:
        yield "its training rows have other keys, or another order"
    for key in different:
        if key in _KEYS:
            then, now = (side.get(key, "unset") for side in (found, wanted))
            yield f"{_KEYS[key]}: {then} in the cache, {now} now"


def _teacher(found: Metadata, now: TeacherFacts) -> str:
    """What of the teacher changed."""
    try:
        then, present = TeacherFacts.from_json(found[TEACHER]).card, now.card
    except (KeyError, ValueError, TypeError):
        return "the teacher changed"
    if then.sha256 != present.sha256:
        return (
            f"the teacher's weights changed ({present.file}): cached from sha256 {then.sha256[:8]}, "
            f"now {present.sha256[:8]}"
        )
    for what, one, other in (
        ("input", then.inputs.to_dict(), present.inputs.to_dict()),
        ("kind", then.kind, present.kind),
        ("hidden layers", list(then.layers), list(present.layers)),
        ("classes", list(then.classes), list(present.classes)),
    ):
        if one != other:
            return f"the teacher's {what} changed: {_text(one)} in the cache, {_text(other)} now"
    return f"the teacher changed ({present.file})"


def _views(source: Source, count: int, size: Size, seed: int) -> dict[str, Any]:
    section = source.section
    facts: dict[str, Any] = {"count": count, "size": size, "resize": section.resize}
    if count > 1:
        facts |= {"crop": section.augment.crop, "flip": section.augment.flip}
        facts |= {"seed": seed, "source": source.name}
    return facts


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def file_name(shard: Path, task: str, fingerprint: str) -> str:
    """`pets-003.breed.0123456789ab.safetensors`."""
    return f"{_stem(shard)}.{task}.{fingerprint}{SIDECAR_ENDING}"


class SidecarFolders:
    """The folders of the sidecars. Each is listed once, since asking for each file of a thousand takes long on a
    network file system.
    """

    def __init__(self) -> None:
        self._listed = cache(_by_shard_and_task)
        self._writable = cache(_writable)

    def find(self, shard: Path, task: str, fingerprint: str) -> Path | None:
        """The sidecar of that name, None where there is none."""
        name = file_name(shard, task, fingerprint)
        return next((path for path in self.all(shard, task) if path.name == name), None)

    def all(self, shard: Path, task: str) -> list[Path]:
        """Every sidecar of this shard and task, whatever recipe it is of."""
        return [
            path for folder in _folders(shard) for path in self._listed(folder).get((_stem(shard), task), ())
        ]

    def to_write(self, shard: Path) -> Path:
        """The folder where new sidecars of the shard go."""
        beside, elsewhere = _folders(shard)
        return beside if self._writable(beside) else elsewhere


def _folders(shard: Path) -> tuple[Path, Path]:
    digest = hashlib.blake2b(os.fsencode(shard.resolve().parent), digest_size=8).hexdigest()
    return shard.parent, cache_folder() / "targets" / digest


def _stem(shard: Path) -> str:
    return shard.name.removesuffix(".tar")


def _writable(folder: Path) -> bool:
    """Tried, because permissions do not tell: root may write anywhere but to a file system that is read-only."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _by_shard_and_task(folder: Path) -> dict[tuple[str, str], list[Path]]:
    found: dict[tuple[str, str], list[Path]] = defaultdict(list)
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            # Neither a task's name nor a fingerprint has a dot in it.
            shard, *named = name.removesuffix(SIDECAR_ENDING).rsplit(".", 2)
            if name.endswith(SIDECAR_ENDING) and len(named) == 2:
                found[shard, named[0]].append(folder / name)
    return found
