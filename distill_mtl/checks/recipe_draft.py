"""Draft a recipe from teachers and their data (`init`); a comment beside each value says where it comes from.

`teacher_lines` and `classes_in_words` serve `teacher inspect` as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill_mtl.checks.members import Member, find_image, find_label
from distill_mtl.checks.proposals import classes_in_shards, initial_weights, smaller_student, student_lines
from distill_mtl.data.index import ShardIndex, load_index
from distill_mtl.data.shard_files import find_shards
from distill_mtl.data.shard_sets import as_patterns, find_sets
from distill_mtl.errors import RecipeError, ShardError
from distill_mtl.networks.box_network import BoxNetwork
from distill_mtl.recipe.command_line import (
    apply_overrides,
    network_name,
    read_teacher,
    task_name,
    teacher_values,
)
from distill_mtl.recipe.load import absolute_teacher
from distill_mtl.recipe.long_form import long_form
from distill_mtl.recipe.mistakes import recipe_error
from distill_mtl.recipe.schema import (
    DEFAULT_EPOCHS,
    NETWORK_KEYS,
    AugmentSection,
    TeacherSection,
    TrainingSection,
)
from distill_mtl.recipe.yaml_reader import YamlDocument
from distill_mtl.recipe.yaml_writer import Noted
from distill_mtl.splits import SPLITS, Split
from distill_mtl.tasks.base import TaskKind, build_kind, import_kind, is_user_kind
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.choose_views import means_a_side

FROM_SET = "--set"
ASSUMED = "assumed: check it"
FOUND = "as found; `teacher check` confirms it"
PINNED = "the program that you trust; another one is refused"
_CLASSES_SHOWN = 10
_FIRST_KEYS = (*NETWORK_KEYS, "args", "weights", "trust", "sha256")


@dataclass(frozen=True)
class TeacherWithData:
    """One teacher and its data, opened.

    Attributes:
        task: its name.
        section: of the recipe, as given on the command line.
        teacher: loaded.
        kind: of the task.
        places: given as its data.
        sets: shards of each set.
        member: that holds its label; None: its teacher's answers are the labels.
        named_by_labels: its classes are called as the labels are.
        image: member that holds its picture; None if it is one of the usual ones.
        rows: for training, estimated.
    """

    task: str
    section: TeacherSection
    teacher: Teacher
    kind: TaskKind
    places: tuple[str, ...]
    sets: Mapping[Split, Sequence[str]]
    member: Member | None
    named_by_labels: bool
    image: str | None
    rows: int


def draft(
    teachers: Sequence[str],
    data: Sequence[Sequence[str]],
    *,
    student: str | None = None,
    trust: bool = False,
    overrides: Sequence[str] = (),
) -> tuple[dict[str, Any], list[TeacherWithData]]:
    """The recipe as a tree of `Noted` values, and the opened teachers and data that it is drafted from.

    Args:
        teachers: folders, files and `hf_hub:` names.
        data: for each teacher, folders, paths and patterns of shards.
        student: architecture; None: that of the teachers if they share one, else one that is not larger than they.
        trust: files that are programs.
        overrides: of the recipe; they are written into it.

    Raises:
        UserError: a teacher cannot be loaded, a data set has no label of the task, or an override is refused.
    """
    if len(teachers) != len(data):
        raise RecipeError(
            f"{len(teachers)} --teacher and {len(data)} --data: each teacher needs the data of its task, in the same "
            "order."
        )
    given = _from_command_line(teachers, trust, overrides)
    pairs = [
        _open(task, entry, places) for (task, entry), places in zip(given["tasks"].items(), data, strict=True)
    ]
    drafted: dict[str, Any] = {"student": _student(pairs, student, given.get("student", {}))}
    drafted["tasks"] = {
        pair.task: Noted(_task(pair, pairs), f"classes: {classes_in_words(pair.teacher.card)}")
        for pair in pairs
    }
    drafted |= {"data": shared} if (shared := _shared_sources(pairs)) else {}
    drafted["training"] = _training(pairs, given.get("training", {}))
    drafted["acceptance"] = Noted(1.0, "default: points that a task may lose against its teacher")
    return _merged(drafted, given), pairs


def _from_command_line(teachers: Sequence[str], trust: bool, overrides: Sequence[str]) -> dict[str, Any]:
    """The command line as part of a recipe: `tasks`, and whatever the overrides name."""
    tasks: dict[str, Any] = {}
    for place in teachers:
        values = teacher_values(place)
        task = task_name(network_name(values), list(tasks))
        tasks[task] = {"teacher": values | ({"trust": True} if trust else {})}
    document = YamlDocument({"tasks": tasks})
    apply_overrides(document, overrides)
    if document.mistakes:
        raise recipe_error("the command line", document.mistakes, document.place)
    given: dict[str, Any] = document.value
    return {key: long_form((key,), value) for key, value in given.items()}


def _open(task: str, entry: dict[str, Any], places: Sequence[str]) -> TeacherWithData:
    """Load one teacher and open its data; removes `teacher` from the entry."""
    section = read_teacher(long_form(("tasks", task, "teacher"), entry.pop("teacher")), (), task)
    own = section.trust or entry.get("trust") is True
    import_kind(str(entry.get("kind")), trust=own, say=f"--set tasks.{task}.trust=true")
    teacher = _loaded(section, task, entry)
    place, sets = " ".join(places[:2]) + (" …" if len(places) > 2 else ""), find_sets(places)
    if not sets["train"]:
        raise ShardError(
            f"--data {place}: no shard is for training; the names of all say validation or test."
        )
    from_labels = classes_in_shards(teacher.card, sets["train"], place) if "classes" not in entry else None
    if from_labels is not None:
        section = section.model_copy(update={"classes": list(from_labels)})
        teacher = _loaded(section, task, entry)
    options = {**teacher.card.options, **entry.get("options", {})}
    kind = build_kind(teacher.card.kind, teacher.card.classes, **options)
    indexes = [
        load_index(shard.path)
        for split in SPLITS
        for shard in find_shards(sets[split][:1], f"--data {place}")[:1]
        if sets[split]
    ]
    named = entry.get("data", {}).get("member")
    return TeacherWithData(
        task=task,
        section=section,
        teacher=teacher,
        places=tuple(places),
        sets=sets,
        kind=kind,
        member=Member(named, FROM_SET) if named else _label(indexes, kind, task, place),
        named_by_labels=from_labels is not None,
        image=find_image(indexes, place),
        rows=len(indexes[0]) * len(sets["train"]),
    )


def _loaded(section: TeacherSection, task: str, entry: Mapping[str, Any]) -> Teacher:
    return load_teacher(
        absolute_teacher(section),
        task=task,
        kind=entry.get("kind"),
        classes=entry.get("classes"),
        options=entry.get("options"),
    )


def _label(indexes: Sequence[ShardIndex], kind: TaskKind, task: str, place: str) -> Member | None:
    """The member with the labels; None where the teacher's answers are the labels, and there are no others."""
    if kind.teacher_labels and not any(
        ending in index.endings for index in indexes for ending in kind.endings()
    ):
        return None
    return find_label(indexes, kind, task, place)


def _student(pairs: Sequence[TeacherWithData], model: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The student's section; its initial weights depend on its architecture."""
    known = [pair.teacher.card.trunk for pair in pairs if pair.teacher.card.trunk is not None]
    height, width = (
        max(sides) for sides in zip(*(pair.teacher.card.inputs.size for pair in pairs), strict=True)
    )
    size = Noted(height if height == width else [height, width], "the largest teacher input")
    if "module" in given:
        return {"input_size": size}
    model, why = given.get("model", model), "--student"
    if model is not None:
        trunk: Mapping[str, Any] = {"model": model, "args": given.get("args", {})}
    elif known and all(trunk == known[0] for trunk in known):
        trunk, why = known[0], "the architecture of its teachers"
    else:
        name, why = smaller_student([pair.teacher for pair in pairs])
        trunk = {"model": name, "args": {}}
    return {
        **{key: Noted(value, why) for key, value in student_lines(trunk).items()},
        "input_size": size,
        "init": _init(pairs, trunk),
    }


def _init(pairs: Sequence[TeacherWithData], trunk: Mapping[str, Any]) -> Noted:
    alike = next((pair.task for pair in pairs if pair.teacher.card.trunk == trunk), None)
    if alike is not None:
        return Noted(f"teacher:{alike}", "the trunk of that teacher; same architecture")
    return Noted(*initial_weights(trunk))


def _task(pair: TeacherWithData, pairs: Sequence[TeacherWithData]) -> dict[str, Any]:
    card = pair.teacher.card
    if "kind" in card.told:
        kind_why = "its file says so"
    elif isinstance(pair.teacher.network, BoxNetwork):
        kind_why = "its boxes"
    else:
        kind_why = f"its output is a {'map' if pair.teacher.network.dense else 'vector'}"
    entry: dict[str, Any] = {
        "kind": Noted(card.kind, kind_why),
        **({"options": Noted(dict(card.options), "its file says so")} if card.options else {}),
        **({"trust": Noted(True, "lets the kind's code run")} if is_user_kind(card.kind) else {}),
        "teacher": Noted(teacher_lines(pair.section, pair.teacher, pair.named_by_labels), card.form),
    }
    if pair.member is not None and _sharing(pair, pairs) == [pair]:
        entry["data"] = _source([pair], {"member": Noted(pair.member.ending, pair.member.why)})
    return entry


def _shared_sources(pairs: Sequence[TeacherWithData]) -> dict[str, Any]:
    """Each data set that was given for several teachers, once, with all their labels."""
    sources: dict[str, Any] = {}
    for pair in pairs:
        sharing = _sharing(pair, pairs)
        if sharing[0] is pair and (len(sharing) > 1 or pair.member is None):
            labels = {
                other.task: Noted(other.member.ending, other.member.why)
                for other in sharing
                if other.member is not None
            }
            taken = [*sources, *(other.task for other in pairs)]
            said = {"labels": labels} if labels else {}
            sources[task_name(pair.places[0], taken)] = _source(sharing, said)
    return sources


def _sharing(pair: TeacherWithData, pairs: Sequence[TeacherWithData]) -> list[TeacherWithData]:
    return [other for other in pairs if other.places == pair.places]


def _source(sharing: Sequence[TeacherWithData], labels: Mapping[str, Any]) -> dict[str, Any]:
    pair = sharing[0]
    sides = [other.task for other in sharing if means_a_side(other.kind)]
    shards = pair.sets["train"]
    count = "1 shard" if len(shards) == 1 else f"{len(shards)} shards"
    cut = "none found: 5 % of the training rows, by a hash of the key; the teacher may have seen them"
    augment = AugmentSection()
    return {
        "shards": Noted(
            as_patterns(shards), f"{count}, {'about ' if len(shards) > 1 else ''}{pair.rows:,} rows"
        ),
        **({"image": Noted(pair.image, "the only member with pictures")} if pair.image else {}),
        **labels,
        "split": {
            split: Noted(as_patterns(pair.sets[split]), "by its name" if pair.sets[split] else cut)
            for split in SPLITS[1:]
        },
        "augment": Noted(
            {
                "crop": Noted(
                    augment.crop, "[0.5, 1.0]: share of the area; 0.125: moved by so much; auto: by size"
                ),
                "flip": Noted(False, f"the classes of {', '.join(sides)} are digits, letters or sides")
                if sides
                else Noted(augment.flip, "auto asks the teachers; false where left and right mean something"),
                "color": Noted(augment.color, "0 where the label is about colour"),
            },
            "default",
        ),
    }


def _training(pairs: Sequence[TeacherWithData], given: Mapping[str, Any]) -> dict[str, Any]:
    rows = sum(_sharing(pair, pairs)[0] is pair and pair.rows for pair in pairs)
    default: int = TrainingSection.model_fields["batch_size"].default
    batch = min(default, max(8, 2 ** int(math.log2(max(1, rows / 8)))))
    length = (
        {}
        if given.get("steps") is not None
        else {"epochs": Noted(DEFAULT_EPOCHS, "default: passes over all rows")}
    )
    return {
        **length,
        "batch_size": Noted(batch, "default" if batch == default else f"for about {rows:,} rows"),
    }


def _merged(drafted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The draft, with the values of the command line in place of its own."""
    merged = dict(drafted)
    for key, value in given.items():
        noted = merged.get(key)
        inner = noted.value if isinstance(noted, Noted) else noted
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            both = _merged(inner, value)
            merged[key] = Noted(both, noted.note) if isinstance(noted, Noted) else both
        else:
            merged[key] = Noted(value, FROM_SET)
    return merged


def teacher_lines(section: TeacherSection, teacher: Teacher, by_labels: bool = False) -> Any:
    """The value of `teacher:`: a path alone, or a section with what was given and what was assumed or found.

    Args:
        section: as given, with paths as they were typed.
        teacher: loaded.
        by_labels: its classes are called as the labels are.
    """
    card = teacher.card
    given = section.model_dump(mode="json", exclude_defaults=True)
    if by_labels:
        given["classes"] = Noted(given["classes"], "assumed: names of the labels, in alphabetical order")
    inputs: dict[str, Any] = dict(given.pop("input", {}))
    contract = card.inputs.to_dict()
    if contract["channels"] == "grey" and not {"channels"} & {*inputs, *card.told, *card.assumed}:
        inputs["channels"] = Noted("grey", "found on a trial")
    inputs |= {key: Noted(contract[key], ASSUMED) for key in card.assumed}
    entry: dict[str, Any] = {**given, **({"input": inputs} if inputs else {})}
    if isinstance(teacher.network, BoxNetwork):
        said = entry.get("output", {})
        read = teacher.network.reading.described()
        entry["output"] = {key: said.get(key, Noted(value, FOUND)) for key, value in read.items()}
    if card.program is None:
        entry.pop("trust", None)
    elif section.sha256 is None:
        entry["sha256"] = Noted(card.sha256, PINNED)
    if set(entry) == {"path"}:
        return entry["path"]
    return {key: entry[key] for key in (*_FIRST_KEYS, *entry) if key in entry}


def classes_in_words(card: TeacherCard) -> str:
    """`3 (cat, dog, owl)`, shortened where there are many; `10 (numbered from 0)` for classes without names."""
    count = len(card.classes)
    if card.classes == tuple(str(index) for index in range(count)):
        return f"{count} (numbered from 0)"
    shown = ", ".join(card.classes[:_CLASSES_SHOWN]) + (", …" if count > _CLASSES_SHOWN else "")
    return f"{count} ({shown})"
