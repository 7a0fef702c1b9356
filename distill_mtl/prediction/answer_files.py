"""What people answered, read back: the table, an export of Label Studio, COCO's form, folders of label files.

All that is wrong in a file is told at once, by its line or place, and nothing is taken from it.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from distill_mtl.errors import UserError, nearest
from distill_mtl.evaluation.few_labels import Questions
from distill_mtl.folders import walk_folder
from distill_mtl.prediction.question_files import ANSWER, CANNOT_SAY, COLUMNS, names_asked
from distill_mtl.reading import Remedy, read_bytes, read_json
from distill_mtl.shards.coco_file import CocoFile
from distill_mtl.shards.table_file import read_table
from distill_mtl.tasks.base import TaskKind
from distill_mtl.tasks.json_values import cell_text
from distill_mtl.tasks.label import to_json
from distill_mtl.untrusted_text import from_sheet_cell

_SHOWN = 10
_MOST_BYTES = 1 << 28
_TABLES = (".csv", ".tsv", ".jsonl")
_REMEDY = Remedy(
    "Give the table of the questions, an export of Label Studio (JSON), COCO's form, or a folder of label files."
)


class Found(NamedTuple):
    """One answer as it was found.

    Attributes:
        place: for messages.
        task, row: as they are named there.
        cells: what a table would hold, by name; or the bytes of a label file; None: it cannot be said.
    """

    place: str
    task: str
    row: str
    cells: Mapping[str, Any] | bytes | None


@dataclass(frozen=True)
class Answers:
    """What was answered.

    Attributes:
        labels: task -> row -> the label's bytes, which the kind reads.
        skipped: task -> rows that cannot be answered.
    """

    labels: Mapping[str, Mapping[str, bytes]]
    skipped: Mapping[str, Sequence[str]]

    @property
    def number(self) -> int:
        """Of all labels."""
        return sum(map(len, self.labels.values()))


def read_answers(places: Sequence[Path], questions: Questions, kinds: Mapping[str, TaskKind]) -> Answers:
    """All answers in some files and folders.

    Raises:
        UserError: a file cannot be read; answers to what was not asked, of unknown tasks, given twice, or that are
            not labels of their task.
    """
    found = [each for place in places for each in _found_in(place, questions, kinds)]
    asked = {
        task: {each.row for each in questions.tasks[task].questions}
        for task in questions.tasks
        if task in kinds
    }
    findings = [finding for each in found if (finding := _stranger(each, questions, asked)) is not None]
    counts = Counter((each.task, each.row) for each in found)
    findings += [
        f"{each.place}: row {each.row} of {each.task} is answered {counts[each.task, each.row]} times"
        for each in found
        if counts[each.task, each.row] > 1
    ]
    labels: dict[str, dict[str, bytes]] = {task: {} for task in questions.tasks}
    skipped: dict[str, list[str]] = {task: [] for task in questions.tasks}
    for each in found if not findings else ():
        if each.cells is None:
            skipped[each.task].append(each.row)
            continue
        try:
            labels[each.task][each.row] = _label(kinds[each.task], each.cells)
        except ValueError as error:
            findings.append(f"{each.place}: row {each.row} of {each.task}: {str(error).rstrip('.')}")
    if findings:
        more = f"; and {len(findings) - _SHOWN:,} more" if len(findings) > _SHOWN else ""
        raise UserError(
            f"--answers: {len(findings):,} answers cannot be used: {'; '.join(findings[:_SHOWN])}{more}. Correct them; "
            "nothing was measured."
        )
    return Answers(labels, skipped)


def _stranger(found: Found, questions: Questions, asked: Mapping[str, set[str]]) -> str | None:
    """What is wrong with an answer to something that was not asked."""
    if found.task not in asked:
        known = ", ".join(asked)
        return f"{found.place}: there is no task '{found.task}'.{nearest(found.task, asked)} Tasks: {known}"
    if found.row in asked[found.task]:
        return None
    if found.row not in questions.keys:
        return f"{found.place}: there is no row '{found.row}'.{nearest(found.row, questions.keys)}"
    others = [task for task in asked if found.row in asked[task]]
    return f"{found.place}: row {found.row} was not asked for {found.task}, but for {', '.join(others)}"


def _label(kind: TaskKind, cells: Mapping[str, Any] | bytes) -> bytes:
    """The label's bytes, read once to see that they are some. Raises ValueError if not."""
    payload = cells if isinstance(cells, bytes) else type(kind).label_from_cells(cells)
    kind.read_label(payload)
    return payload


def _found_in(place: Path, questions: Questions, kinds: Mapping[str, TaskKind]) -> Iterator[Found]:
    if place.is_dir():
        yield from _in_folder(place, questions, kinds)
    elif place.suffix.lower() in _TABLES:
        yield from _in_table(place, kinds)
    elif place.suffix.lower() == ".json":
        content = read_json(place, remedy=_REMEDY)
        if isinstance(content, list):
            yield from _in_label_studio(place, content, kinds)
        else:
            yield from _in_coco(place, questions, kinds)
    else:
        raise UserError(
            f"--answers {place}: {'there is no such file' if not place.exists() else 'unknown form'}. "
            f"{_REMEDY.mend}"
        )


def _in_table(path: Path, kinds: Mapping[str, TaskKind]) -> Iterator[Found]:
    """Lines with an answer; those of one row and task are one answer."""
    lines, columns = read_table(path)
    if missing := [column for column in COLUMNS if column not in columns and column != "picture"]:
        raise UserError(
            f"--answers {path} has no column '{missing[0]}'.{nearest(missing[0], columns)} "
            f"Columns: {', '.join(columns)}."
        )
    gathered: dict[tuple[str, str], list[tuple[int, str, Any]]] = {}
    for number, cells in lines:
        if cells["answer"] in (None, ""):
            continue
        task, row, name = (str(cells[key] or "").strip() for key in ("task", "row", "name"))
        gathered.setdefault((task, row.zfill(4) if row.isdecimal() else row), []).append(
            (number, from_sheet_cell(name), cells["answer"])
        )
    for (task, row), answers in gathered.items():
        kind, place = kinds.get(task), f"{path}, line {answers[0][0]}"
        if kind is None or all(cell_text(cell) == CANNOT_SAY for _, _, cell in answers):
            yield Found(place, task, row, None)
        else:
            for cells_of_one in _once_each(answers):
                yield Found(place, task, row, _cells(path, kind, cells_of_one))


def _once_each(answers: Sequence[tuple[int, str, Any]]) -> list[dict[str, Any]]:
    """The cells by name; a name that stands there twice begins another answer, which is one too many."""
    found: list[dict[str, Any]] = []
    for _, name, cell in answers:
        if not found or name in found[-1]:
            found.append({})
        found[-1][name] = cell
    return found


def _cells(path: Path, kind: TaskKind, given: Mapping[str, Any]) -> Mapping[str, Any] | bytes:
    """What a table of labels would hold; a file's bytes."""
    if kind.from_table == "file":
        return _file(path.parent / str(given[""]).strip()) if set(given) == {""} else dict(given)
    names = names_asked(kind)
    if names == ("",):
        return {"answer": next(iter(given.values()))}
    return {name: given.get(name) for name in dict.fromkeys((*names, *given))}


def _file(path: Path) -> bytes:
    try:
        return read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise UserError(f"--answers: {path} cannot be read: {error.strerror or error}.") from None


def _in_folder(folder: Path, questions: Questions, kinds: Mapping[str, TaskKind]) -> Iterator[Found]:
    """FOLDER/TASK/ROW.ENDING, or FOLDER/ROW.ENDING for the only task whose labels are files."""
    tasks = [task for task, kind in kinds.items() if kind.from_table == "file" and task in questions.tasks]
    for file in walk_folder(folder).files:
        above, name = os.path.split(file)
        task = above or (tasks[0] if len(tasks) == 1 else "")
        if task in kinds and task not in tasks:
            raise UserError(
                f"--answers {folder / file}: the labels of {task} are not files. Its answers belong in a table."
            )
        yield Found(str(folder / file), task, name.partition(".")[0], _file(folder / file))


def _in_label_studio(path: Path, content: Sequence[Any], kinds: Mapping[str, TaskKind]) -> Iterator[Found]:
    """An export of Label Studio in its form JSON (https://labelstud.io/guide/task_format)."""
    for number, item in enumerate(content):
        place = f"{path}, item {number + 1}"
        data = item.get("data") if isinstance(item, dict) else None
        if not isinstance(data, dict) or not {"row", "task"} <= data.keys():
            raise UserError(
                f"--answers {place}: has no `data` with `row` and `task`, which the tasks of Label Studio had. "
                "Export it as JSON, not JSON-MIN."
            )
        for annotation in item.get("annotations") or ():
            task, row = str(data["task"]), str(data["row"])
            if not isinstance(annotation, dict) or annotation.get("was_cancelled") or task not in kinds:
                yield Found(place, task, row, None)
                continue
            try:
                yield Found(place, task, row, _of_results(kinds[task], annotation.get("result") or []))
            except (KeyError, TypeError, IndexError, AttributeError):
                raise UserError(
                    f"--answers {place}: is no answer that the interface in label_studio/{task}.xml gives. Label with "
                    "that interface."
                ) from None


def _of_results(kind: TaskKind, results: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The cells of one annotation."""
    if kind.asked_as == "numbers":
        said = {result["from_name"]: result["value"]["number"] for result in results}
        return {name: said.get(name) for name in dict.fromkeys((*kind.classes, *said))}
    if kind.asked_as == "choices":
        chosen = [name for result in results for name in result["value"]["choices"]]
        return {name: int(name in chosen) for name in dict.fromkeys((*kind.classes, *chosen))}
    if kind.asked_as in ("boxes", "points"):
        return {ANSWER: [_object(kind, result) for result in results]}
    values = results[0]["value"]
    texts = values["choices"] if kind.asked_as == "choice" else values["text"]
    return {ANSWER: texts[0] if isinstance(texts, list) else texts}


def _object(kind: TaskKind, result: Mapping[str, Any]) -> dict[str, Any]:
    """Of shares of 100 of the picture's sides."""
    value = result["value"]
    wide, high = result["original_width"] / 100, result["original_height"] / 100
    left, top = value["x"] * wide, value["y"] * high
    if kind.asked_as == "points":
        return {"class": value["keypointlabels"][0], "point": [left, top]}
    width, height, turned = (
        value["width"] * wide,
        value["height"] * high,
        math.radians(value.get("rotation") or 0),
    )
    # Turned about its upper left corner: the upright box around it.
    across = [0, width * math.cos(turned), -height * math.sin(turned)]
    down = [0, width * math.sin(turned), height * math.cos(turned)]
    xs = [left + x for x in (*across, across[1] + across[2])]
    ys = [top + y for y in (*down, down[1] + down[2])]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return {"class": value["rectanglelabels"][0], "box": box}


def _in_coco(path: Path, questions: Questions, kinds: Mapping[str, TaskKind]) -> Iterator[Found]:
    """Boxes in COCO's form. A picture without boxes counts as answered where a later one has some: the file cannot say
    which pictures were looked at, and they are labelled in their order."""
    task = _coco_task(path, questions, kinds)
    file = CocoFile.read(path, "boxes", allow_missing=False)
    rows = {Path(picture.file).stem: number for number, picture in file.pictures.items()}
    order = {each.row: place for place, each in enumerate(questions.tasks[task].questions)}
    last = max((order.get(row, 0) for row, number in rows.items() if file.things.get(number)), default=-1)
    for row, number in rows.items():
        things = file.things.get(number, [])
        if things or order.get(row, -1) <= last:
            objects = [
                {"class": file.names[thing.category], "box": list(thing.value)}
                for thing in things
                if thing.category is not None
            ]
            yield Found(f"{path}, picture {row}", task, row, to_json(objects))


def _coco_task(path: Path, questions: Questions, kinds: Mapping[str, TaskKind]) -> str:
    """The task of boxes that a file is called by, or the only one."""
    tasks = [task for task in questions.tasks if kinds[task].asked_as == "boxes"]
    if path.stem in tasks:
        return path.stem
    if len(tasks) != 1:
        these = f"of {', '.join(tasks)}: call the file TASK.json" if tasks else "and no task has boxes"
        raise UserError(f"--answers {path}: COCO's form holds boxes, {these}.")
    return tasks[0]
