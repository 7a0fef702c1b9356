"""Questions as files for people: pictures, a table to fill in, and tasks for Label Studio and for tools that read COCO.

Nothing in them says what a network answers. Called by `distill-mtl evaluate --ask`; `answer_files` reads them back.
"""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import quoteattr

from distill_mtl.data.decode import read_image
from distill_mtl.errors import UserError
from distill_mtl.evaluation.few_labels import Questions
from distill_mtl.evaluation.few_labels.questions import NAME
from distill_mtl.geometry.views import Size
from distill_mtl.picture_bytes import format_of
from distill_mtl.prediction.named_pictures import Picture
from distill_mtl.report.markdown import plain
from distill_mtl.tasks.base import TaskKind
from distill_mtl.tasks.label import AskedAs
from distill_mtl.untrusted_text import sheet_cell

PICTURES, LABEL_STUDIO, COCO, TABLE = "pictures", "label_studio", "coco", "answers.csv"
COLUMNS = ("row", "picture", "task", "name", "answer")
"""Of the table; `name` is a class, where a task is asked for each of them."""
CANNOT_SAY = "?"
ANSWER, IMAGE = "answer", "image"
"""Names in a Label Studio configuration."""
LOCAL_FILES = "/data/local-files/?d="
_ENDINGS = {"JPEG": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}  # where the format's name is none
_MANY = 30  # classes that a sentence names


class Copied(NamedTuple):
    """A picture as it lies among the questions: path from their folder, and its height and width."""

    path: str
    size: Size


def write_questions(
    folder: Path, questions: Questions, kinds: Mapping[str, TaskKind], pictures: Mapping[str, Picture]
) -> None:
    """Write everything into an empty folder.

    Args:
        folder: that is there.
        questions: what is asked.
        kinds: of the tasks.
        pictures: row -> picture.

    Raises:
        UserError: a picture that was read before cannot be read now.
    """
    (folder / PICTURES).mkdir()
    copied = {row: _copy(folder, row, picture) for row, picture in pictures.items()}
    (folder / NAME).write_text(questions.to_json(), encoding="utf-8")
    (folder / TABLE).write_text(_table(questions, kinds, copied), encoding="utf-8")
    (folder / "README.md").write_text(_readme(questions, kinds), encoding="utf-8")
    for task, asked in questions.tasks.items():
        kind, rows = kinds[task], [question.row for question in asked.questions]
        config = label_studio_config(kind)
        if rows and config is not None:
            (folder / LABEL_STUDIO).mkdir(exist_ok=True)
            tasks = [_label_studio_task(row, task, copied[row]) for row in rows]
            _write_json(folder / LABEL_STUDIO / f"{task}.json", tasks)
            (folder / LABEL_STUDIO / f"{task}.xml").write_text(config, encoding="utf-8")
        if rows and kind.asked_as == "boxes":
            (folder / COCO).mkdir(exist_ok=True)
            _write_json(folder / COCO / f"{task}.json", _coco(kind, rows, copied))


def label_studio_config(kind: TaskKind) -> str | None:
    """Label Studio's labelling interface for a task (https://labelstud.io/tags); None: it has none for the kind."""
    names = [quoteattr(name) for name in kind.classes]
    lines = {
        "choice": _control("Choices", "Choice", names, ' choice="single"'),
        "choices": _control("Choices", "Choice", names, ' choice="multiple"'),
        "boxes": _control("RectangleLabels", "Label", names),
        "points": _control("KeyPointLabels", "Label", names),
        "text": [f'  <TextArea name="{ANSWER}" toName="{IMAGE}"/>'],
        "numbers": [
            line
            for name in names
            for line in (f"  <Header value={name}/>", f'  <Number name={name} toName="{IMAGE}"/>')
        ],
    }.get(kind.asked_as)
    if lines is None:
        return None
    return "\n".join(["<View>", f'  <Image name="{IMAGE}" value="$image"/>', *lines, "</View>", ""])


def _control(outer: str, inner: str, names: Sequence[str], more: str = "") -> list[str]:
    opened = f'  <{outer} name="{ANSWER}" toName="{IMAGE}"{more}>'
    return [opened, *(f"    <{inner} value={name}/>" for name in names), f"  </{outer}>"]


def _label_studio_task(row: str, task: str, copied: Copied) -> dict[str, Any]:
    return {"data": {"image": f"{LOCAL_FILES}{copied.path}", "row": row, "task": task}}


def _coco(kind: TaskKind, rows: Sequence[str], copied: Mapping[str, Copied]) -> dict[str, Any]:
    """COCO's form (Lin et al. 2014, arXiv:1405.0312) without annotations."""
    images = [
        {
            "id": number,
            "file_name": copied[row].path,
            "height": copied[row].size[0],
            "width": copied[row].size[1],
        }
        for number, row in enumerate(rows, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(kind.classes, 1)]
    return {"images": images, "annotations": [], "categories": categories}


def _table(questions: Questions, kinds: Mapping[str, TaskKind], copied: Mapping[str, Copied]) -> str:
    """The table: the tasks in turn, each in the order of its draw, so that its upper part is a draw too."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    by_task = [[(task, each.row) for each in asked.questions] for task, asked in questions.tasks.items()]
    for turn in zip_longest(*by_task):
        for task, row in filter(None, turn):
            for name in names_asked(kinds[task]):
                writer.writerow([row, copied[row].path, task, sheet_cell(name), ""])
    return text.getvalue()


def names_asked(kind: TaskKind) -> tuple[str, ...]:
    """What the column `name` holds for each picture of a task."""
    return kind.classes if kind.from_table == "columns" else ("",)


def _copy(folder: Path, row: str, picture: Picture) -> Copied:
    """The picture's bytes under the row's name, which says nothing of where it came from."""
    ending = os.path.splitext(picture.place)[1][1:]
    try:
        content = picture.read()
        form, image = format_of(content, ending), read_image(content, ending)
    except (ValueError, OSError) as error:  # it could be read a moment ago
        raise UserError(f"{picture.place} was changed while it was read: {str(error).rstrip('.')}.") from None
    path = f"{PICTURES}/{row}.{_ENDINGS.get(form, form.lower())}"
    (folder / path).write_bytes(content)
    return Copied(path, (image.shape[1], image.shape[2]))


def _readme(questions: Questions, kinds: Mapping[str, TaskKind]) -> str:
    lines = [
        f"# {questions.number:,} questions about {len(questions.keys):,} pictures",
        "",
        f"Answer them in `{TABLE}`, column `answer`, from the top down; stop whenever you like. Write "
        f"`{CANNOT_SAY}` where a picture cannot be answered. Then:",
        "",
        f"    distill-mtl evaluate {questions.run} --answers {TABLE}",
        "",
        "| task | pictures | what is asked |",
        "| --- | ---: | --- |",
    ]
    lines += [
        f"| {task} | {len(asked.questions):,} | {_sentence(task, kinds[task])} |"
        for task, asked in questions.tasks.items()
        if asked.questions
    ]
    return "\n".join([*lines, ""])


def _sentence(task: str, kind: TaskKind) -> str:
    few = plain(", ".join(kind.classes[:_MANY])) + (", …" if len(kind.classes) > _MANY else "")
    sentences: dict[AskedAs, str] = {
        "choice": f"one of: {few}",
        "choices": "1 or 0 for each name, nothing where it is not known",
        "numbers": "a number for each name, nothing where it is not known",
        "boxes": 'all objects as JSON, in pixels: [{"class": NAME, "box": [left, top, width, height]}], or []; of: '
        + few,
        "points": f'all points as JSON, in pixels: [{{"class": NAME, "point": [x, y]}}], or []; of: {few}',
        "file": f"the path of a label file ({kind.member.partition(';')[0]}), or a folder {task}/ROW.ENDING given to "
        f"--answers; of: {few}",
        "text": "the label's text",
    }
    return sentences[kind.asked_as]


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
