"""A data set of Hugging Face's `datasets`: from the hub, saved by `save_to_disk`, or in files that the package reads.

Which column is the picture and which the label follows from the columns' types and names (`hub_columns`), unless the
user says it.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_mtl.data.shard_sets import set_named
from distill_mtl.errors import ShardError, a_few, brief
from distill_mtl.extras import extra
from distill_mtl.picture_bytes import format_of
from distill_mtl.shards.annotations import SHORT, choose_sets, note_outside
from distill_mtl.shards.hub_columns import BoxForm, HubColumns, described, is_image, is_unknown, picture_bytes
from distill_mtl.shards.label_kinds import FoundLabel, LabelKinds
from distill_mtl.shards.listed_rows import ListedRows, RowContent, picture_content

_FILES = {".parquet": "parquet", ".arrow": "arrow", ".json": "json", ".jsonl": "json", ".csv": "csv"}
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def hf_sets(
    name: str | Path,
    *,
    config: str | None = None,
    image: str | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    unlabelled: bool = False,
    boxes: BoxForm = "xywh",
    sets: Sequence[str] = (),
    allow_missing: bool = False,
    task: str = "",
    options: Mapping[str, Any] | None = None,
) -> dict[str, ListedRows]:
    """The splits of a data set, by their names.

    A class is `cls`, a second picture `seg.png`, a list of classes `attributes.json`, boxes with classes `boxes.json`,
    numbers `values.json`.

    Args:
        name: on the hub (owner/name), or a folder or file.
        config: of a data set that has several.
        image: column of the picture; default found.
        labels: member -> its columns; default found.
        unlabelled: the pictures alone.
        boxes: what the four numbers of a box are: left, top, and width and height or right and bottom.
        sets: the splits to write; default all.
        allow_missing: leave out rows whose class is unknown (none, or -1), instead of refusing them.
        task: a name for the task; default the data set's.
        options: of the labels' kinds.

    Raises:
        ShardError: no such data set, or it cannot be reached; no column, or several, that could be meant.
        UserError: an invalid option.
    """
    splits = _open(str(name), config)
    names = choose_sets(splits, sets, name)
    data = {one: splits[one] for one in names}
    first = data[names[0]].features
    for one in names:
        if data[one].features != first:
            differ = sorted(
                key
                for key in first.keys() | data[one].features.keys()
                if first.get(key) != data[one].features.get(key)
            )
            raise ShardError(
                f"{name}: the split {one} has other columns than {names[0]} ({a_few(differ)}). Write each with --sets."
            )
    columns = HubColumns(
        str(name), first, image, {} if unlabelled else labels, boxes, find=not (unlabelled or labels)
    )
    if not columns.labels and not unlabelled:
        raise ShardError(
            f"{name}: no column is a label of a known form. Columns: {described(first)}. Name it with --label "
            "MEMBER=COLUMN, or write the pictures alone with --unlabelled."
        )
    scanned = columns.scan(data)
    found = [
        FoundLabel(member, _task(task or Path(name).name, member, columns.labels), *scanned[member])
        for member in columns.labels
    ]
    built = LabelKinds(options=options).build(found)
    what = {
        "origin": "hf",
        "name": str(name),
        "config": config,
        "image": columns.image,
        "labels": columns.labels,
    }
    what |= {"boxes": boxes} | ({"options": dict(options)} if options else {})
    rows = {one: HubRows(str(name), one, data[one], columns, {**what, "set": one}) for one in names}
    for split in rows.values():
        split.labels = built
        split.leave_out_unknown(allow_missing)
    return {**rows}


def _task(name: str, member: str, labels: Mapping[str, Any]) -> str:
    return name if len(labels) == 1 else f"{name}-{member.partition('.')[0]}"


def _open(name: str, config: str | None) -> dict[str, Any]:
    """The splits of a data set; one of a single file, or without a split, is called as nothing."""
    local = os.path.exists(name)
    if not local and (name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix in _FILES):
        raise ShardError(f"{name}: there is no such file or folder.")
    datasets = extra("datasets", "datasets", "a data set of Hugging Face")
    try:
        if os.path.isfile(name):
            ending = Path(name).suffix.lower()
            if ending not in _FILES:
                raise ShardError(f"{name}: files of {', '.join(_FILES)} are read, or a folder.")
            split = set_named(Path(name).name)
            found = datasets.load_dataset(_FILES[ending], data_files=name, split="train")
            return {SHORT[split] if split else "": found}
        saved = [os.path.join(name, one) for one in ("dataset_dict.json", "state.json")]
        found = (
            datasets.load_from_disk(name)
            if any(map(os.path.exists, saved))
            else datasets.load_dataset(name, config)
        )
    except ShardError:
        raise
    except Exception as error:  # whatever the package raises, the user asked for it
        raise ShardError(f"{name} cannot be opened: {brief(error)}. {_mend(name, local, error)}") from None
    return dict(found) if isinstance(found, dict) else {"": found}


def _mend(name: str, local: bool, error: Exception) -> str:
    if local:
        return "A folder of pictures, of parquet files, or one that save_to_disk wrote is expected."
    if "onfig" in str(error):
        return "Name one with --config."
    return (
        f"If this machine does not reach the hub, fetch it on another (hf download {name} --repo-type dataset "
        "--local-dir FOLDER), and name the folder."
    )


class HubRows(ListedRows):
    """The rows of a split.

    Args:
        name: of the data set.
        split: of it.
        data: the split.
        columns: what its columns mean.
        what: as in `ListedRows`.
    """

    def __init__(
        self, name: str, split: str, data: Any, columns: HubColumns, what: Mapping[str, object]
    ) -> None:
        self._place = f"{name}, {split}" if split else name
        self._split, self._columns, self.what = split or "row", columns, what
        for column, feature in columns.features.items():
            if is_image(feature):
                data = data.cast_column(column, _undecoded())
        used = {columns.image, *(one for some in columns.labels.values() for one in some)}
        self._data = data.select_columns(sorted(used))
        self._kinds, self._kept = LabelKinds(), list(range(len(data)))
        self.labels, self.left_out = [], columns.left_out.get(split, {})
        self.notes = columns.notes() + note_outside(self._files(), _folders(name))

    def _files(self) -> Iterator[str]:
        """The pictures that the table names in place of holding them."""
        compute = extra("pyarrow.compute", "datasets", "a data set of Hugging Face")
        for column, feature in self._data.features.items():
            if is_image(feature):
                cells = self._data.data.column(column)
                named = compute.is_null(compute.struct_field(cells, "bytes"))
                paths = compute.struct_field(cells, "path").filter(named).to_pylist()
                yield from (path for path in paths if path and "://" not in path)

    def leave_out_unknown(self, allow_missing: bool) -> None:
        """Of rows whose class nobody says.

        Raises:
            ShardError: there are some, and they are not to be left out.
        """
        column = next(iter(self._columns.labels.get("cls", ())), None)
        if column is None:
            return
        unknown = {at for at, cell in enumerate(self._data[column]) if is_unknown(cell)}
        if unknown and (not allow_missing or len(unknown) == len(self._kept)):
            remedy = "Leave the split out with --sets" + (
                ", or such rows with --allow-missing" if not allow_missing else ""
            )
            raise ShardError(
                f"{self._place}: {len(unknown):,} of {len(self._kept):,} rows have no {column}. {remedy}."
            )
        self._kept = [at for at in self._kept if at not in unknown]
        self.left_out = {**self.left_out, f"rows without {column}": len(unknown)}

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, number: int) -> str:
        return (
            f"{self._split.replace('.', '_')}-{self._kept[number]:0{len(str(max(len(self._data) - 1, 0)))}d}"
        )

    def place(self, number: int) -> str:
        return f"{self._place}, row {self._kept[number]}"

    def read(self, number: int) -> RowContent:
        row = self._data[self._kept[number]]
        content = picture_bytes(row[self._columns.image])
        form = format_of(content)
        ending, picture = picture_content(content, _ENDINGS.get(form, form.lower()))
        members = {member: self._columns.label(member, row, self._kinds) for member in self._columns.labels}
        return RowContent(ending, picture, members)

    def digest(self) -> str:
        """Of what `datasets` says about the split: its fingerprint changes with files and columns."""
        said = json.dumps([dict(self.what), self._data._fingerprint, len(self)], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()


def _undecoded() -> Any:
    return extra("datasets", "datasets", "a data set of Hugging Face").Image(decode=False)


def _folders(name: str) -> list[Path]:
    """Where the pictures of a data set are expected: in its folder, or where the hub's files are kept."""
    datasets = extra("datasets", "datasets", "a data set of Hugging Face")
    kept = [Path(datasets.config.HF_CACHE_HOME), Path(datasets.config.HF_DATASETS_CACHE)]
    if not os.path.exists(name):
        return kept
    folder = Path(name) if os.path.isdir(name) else Path(name).parent
    return [folder, Path(os.path.realpath(folder)), *kept]
