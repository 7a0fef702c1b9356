"""What the numbers in a sidecar depend on, as text in its header, and what differs between two of them in words.

A name in the file system is made from it, so the caches of different recipes lie side by side, and a
header that differs from what a recipe wants is never used.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from distill_mtl.data.source import ShardRows, Source
from distill_mtl.geometry.views import Size
from distill_mtl.targets.encoding import AnswerCodec
from distill_mtl.targets.facts import TeacherFacts

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
