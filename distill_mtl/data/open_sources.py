"""The way in: the shards of a recipe's data sets found, fetched or left in their bucket, indexed and checked."""

from collections.abc import Mapping

from distill_mtl.data.all_sources import DataSettings, Sources
from distill_mtl.data.batch import ALONE, ProcessShare
from distill_mtl.data.few_labels import kept_rows
from distill_mtl.data.index import fetch_index, index_name, streamed_index
from distill_mtl.data.shard_files import Shard, find_shards, find_streamed
from distill_mtl.data.shard_store import ShardStore
from distill_mtl.data.source import Source
from distill_mtl.errors import ShardError, a_few
from distill_mtl.geometry.views import Size
from distill_mtl.recipe.schema import SourceSection
from distill_mtl.remote_files import at_once, describe_all, folder_of, join
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind


def open_sources(
    settings: DataSettings,
    kinds: Mapping[str, TaskKind],
    size: Size,
    *,
    local: ProcessShare = ALONE,
    every_set: bool = True,
) -> Sources:
    """Find, fetch, index and check every shard of some data sets.

    Args:
        settings: of a recipe, or the data sets alone.
        kinds: every task that they have labels for.
        size: height and width that images get, the canonical size.
        local: this process among those of this machine, which share the work.
        every_set: a task that has labels must have some in each set.

    Raises:
        ShardError: everything that is wrong with the shards, of all sources at once; a set without rows.
        RecipeError: a source is to be limited or balanced by class and has not exactly one class label.
    """
    sources, findings = [], []
    # Rows to test on, where nothing but teachers' answers is learned.
    cut = any(kind.teacher_labels for kind in kinds.values()) and not any(
        section.labels or section.split.test for section in settings.data.values()
    )
    for name, section in settings.data.items():
        members = {task: label.member or kinds[task].member for task, label in section.labels.items()}
        try:
            lanes = settings.stream.lanes
            sources.append(_open_source(name, section, members, local=local, cut=cut, lanes=lanes))
        except ShardError as error:
            findings.append(str(error))
    if findings:
        raise ShardError("\n".join(findings))
    for source in sources:
        if source.section.limit is not None:
            source.keep_labels(kept_rows(settings.seed, source, kinds))
    opened = Sources(settings, sources, kinds, size, local=local)
    if every_set:
        opened.refuse_empty_sets()
    return opened


def _open_source(
    name: str,
    section: SourceSection,
    members: Mapping[str, str],
    *,
    local: ProcessShare = ALONE,
    cut: bool = False,
    lanes: int = 1,
) -> Source:
    """Find, fetch and index the shards of one source.

    Args:
        name: in the recipe.
        section: of the recipe.
        members: task -> member, for every task that the source has labels for.
        local: this process among those of this machine.
        cut: as in `Source`.
        lanes: as in `Source`.

    Raises:
        ShardError: as `find_shards` and `Source`.
    """
    patterns: dict[Split, tuple[str | list[str] | None, str]] = {
        "train": (section.shards, "shards"),
        "validation": (section.split.validation, "split.validation"),
        "test": (section.split.test, "split.test"),
    }
    shards: dict[Split, list[Shard]] = {}
    store: ShardStore | None = None
    if section.store_bytes is not None:
        shards, store = streamed_shards(f"data.{name}", section.store_bytes, patterns)
    else:
        for split, (pattern, key) in patterns.items():
            place = f"data.{name}.{key}"
            shards[split] = find_shards(pattern, place, local=local) if pattern else []
    return Source(name, section, members, shards, local=local, cut=cut, lanes=lanes, store=store)


def streamed_shards(
    owner: str, limit: int, patterns: Mapping[Split, tuple[str | list[str] | None, str]]
) -> tuple[dict[Split, list[Shard]], ShardStore]:
    """The shards of each set that stay in a bucket, and the store that they come to. Their indexes come now.

    Args:
        owner: who needs them, for messages: data.pets.
        limit: bytes of the store.
        patterns: set -> URLs with braces and `*`, and the key below the owner that names them.

    Raises:
        ShardError: as `find_streamed`; shards without an index.
    """
    found = {
        split: find_streamed(pattern, f"{owner}.{key}") if pattern else []
        for split, (pattern, key) in patterns.items()
    }
    files = [file for of_set in found.values() for file in of_set]
    urls = [join(folder_of(file.url), index_name(file.name)) for file in files]
    beside = dict(zip(files, describe_all(urls, owner), strict=True))
    if without := [file.url for file, index in beside.items() if index is None]:
        some = "1 shard has" if len(without) == 1 else f"{len(without)} of {len(files)} shards have"
        raise ShardError(
            f"{owner}: {some} no index beside {'it' if len(without) == 1 else 'them'} ({a_few(without, 3)}). Write "
            f"what is missing with `distill-mtl index {folder_of(without[0])}`."
        )
    store = ShardStore(owner, limit, [file.url for file in files])
    shards = {
        split: [Shard(file.url, store.place(file), file, beside[file]) for file in of_set]
        for split, of_set in found.items()
    }
    listed = [shard for of_set in shards.values() for shard in of_set]
    at_once(lambda shard: len(fetch_index(shard, owner)), listed)
    for file, shard in zip(files, listed, strict=True):
        store.expect(file, streamed_index(shard, owner)[1])
    store.refuse_full_disk()
    return shards, store
