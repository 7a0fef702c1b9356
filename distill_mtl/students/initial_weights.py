"""A student with its initial weights: of the trunk (`student.init`), and of each head (`tasks.NAME.head.init`).

They are read from folders, so that a run with cached targets need not open a teacher's network. Where `student.init`
names an older student, its architecture and size are the defaults, and tasks of the same names begin with its heads.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn

from distill_mtl.errors import StudentError, UserError
from distill_mtl.machine_memory import within_memory
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.network import chosen_task
from distill_mtl.networks.weights import CONFIG, load_exactly, network_folder, read_config, read_weights
from distill_mtl.recipe.schema import (
    INITS,
    StudentInputSection,
    StudentLayersSection,
    StudentSection,
    TaskSection,
)
from distill_mtl.students.shape import SHAPES, Layout, restore_body, shaped
from distill_mtl.students.student import (
    DEFAULT_FAMILY,
    FAMILIES,
    OWN_CODE,
    Body,
    Student,
    Trunk,
    split_family,
)
from distill_mtl.students.student_folder import FORMAT, described_layout, described_student
from distill_mtl.tasks.base import TaskKind

if TYPE_CHECKING:
    from distill_mtl.teachers.label_map import LabelMap


TEACHERS = "teachers"
"""`student.init`: the path of each task begins as its own teacher."""
_TEACHER = "teacher:"
_TRUNK = "trunk.model."
_HEADS = "heads."


_FIXED = "img_size"  # timm's word for the size that position tables are made for


ANEW = "Write `head: {init: random}` to let the task begin anew."


@dataclass(frozen=True)
class InitialHead:
    """The initial weights of a task's head.

    Attributes:
        place: the teacher's folder, or file; or the old student's folder.
        asked: which of its heads the recipe names; None: the one of the task's name, or the only one.
        labels: how its outputs stand for the task's classes.
        inherited: it is the old student's, which was not named in the recipe.
    """

    place: Path
    asked: str | None
    labels: "LabelMap"
    inherited: bool = False


@dataclass(frozen=True)
class InitialStudent:
    """What the config of the folder says.

    Attributes:
        folder: where it lies.
        model: what `student.model` would say for its trunk.
        args: of the architecture.
        size: height and width of its images.
        tasks: name -> what describes the kind of each task that it has a head for.
        layout: its shape; empty: its tasks share the whole trunk.
    """

    folder: Path
    model: str
    args: Mapping[str, Any]
    size: tuple[int, int]
    tasks: Mapping[str, Mapping[str, Any]]
    layout: Layout = field(default_factory=dict)

    def settle(self, section: StudentSection, tasks: Sequence[str]) -> StudentSection:
        """The section with this student's architecture, size and shape where it names none.

        Args:
            section: of the new student.
            tasks: of the new student.

        Raises:
            StudentError: it names another architecture, or a new task has no place in the shape.
        """
        model = section.architecture or self.model
        if _architecture(model) != _architecture(self.model):
            raise StudentError(
                f"student.init: {self.folder} holds a {self.model}, and student.model says {model}. Remove `model`, or "
                "begin with something else (`init: random`) and let the old student teach."
            )
        size = section.input_size or self.size
        height_width = (size, size) if isinstance(size, int) else size
        if split_family(model)[0] == OWN_CODE:
            settled = self._own_code(section).model_copy(update={"input_size": size})
        else:
            args = section.args or {
                key: value for key, value in self.args.items() if key != _FIXED or height_width == self.size
            }
            settled = section.model_copy(update={"model": model, "input_size": size, "args": dict(args)})
        return settled.with_layout(self._layout_for(section, tasks))

    def _own_code(self, section: StudentSection) -> StudentSection:
        """The section with the old student's code, its arguments and what is read of it."""
        spec = split_family(self.model)[1]
        if not section.trust:
            raise StudentError(
                f"student.init: {self.folder} holds a network of your own code, {spec}, which runs with all your "
                "rights on this machine. If you trust it, add `trust: true` to `student`."
            )
        said = {
            "layers": StudentLayersSection(**self.args["layers"]),
            "input": StudentInputSection(**self.args["input"]),
            "args": dict(self.args["args"]),
        }
        kept = {key: value for key, value in said.items() if key not in section.model_fields_set}
        return section.model_copy(update={"model": None, "module": spec, **kept})

    def _layout_for(self, section: StudentSection, tasks: Sequence[str]) -> Layout:
        old = list(self.tasks)
        try:
            if section.layout:
                return {
                    key: SHAPES[key].beside(value, self.layout, old, tasks)
                    if key in SHAPES.names()
                    else value
                    for key, value in section.layout.items()
                }
            said = {key: SHAPES[key].inherited(value, old, tasks) for key, value in self.layout.items()}
        except UserError as error:
            raise StudentError(f"student.init: in {self.folder} {error}") from error
        return {key: value for key, value in said.items() if value is not None}

    def head_of(self, task: str, section: TaskSection) -> str | None:
        """The head that the task's begins with, unless the recipe says otherwise; None: it begins anew.

        It is the one that teaches the task, where this student does, else the one of the task's name.
        """
        if section.head.init is not None:
            return None
        for teacher in section.networks:
            if teacher.path and network_folder(Path(teacher.path)) == self.folder:
                return chosen_task(self.folder, list(self.tasks), teacher.task, task)
        return task if task in self.tasks else None


def find_initial_student(init: str) -> InitialStudent | None:
    """The student whose folder `student.init` names; None where it names something else, or nothing that is there.

    Raises:
        StudentError: its config cannot be understood.
    """
    if init in INITS or init.startswith("teacher:"):
        return None
    folder = network_folder(Path(init))
    if not os.path.isfile(folder / CONFIG):
        return None
    try:
        config = read_config(folder)
        if config.get("format") != FORMAT:
            return None
        described = described_student(folder, config)
        trunk = described["trunk"]
        family, model = trunk["family"], trunk["model"]
        return InitialStudent(
            folder=folder,
            model=model if family == DEFAULT_FAMILY else f"{family}:{model}",
            args=trunk["args"],
            size=InputContract.from_dict(trunk["inputs"]).size,
            tasks=described["tasks"],
            layout=described_layout(folder, described),
        )
    except (UserError, ValueError) as error:
        raise StudentError(f"student.init: {error}") from error


def build_student(
    section: StudentSection,
    kinds: Mapping[str, TaskKind],
    hint_layers: Sequence[str | None] = (),
    *,
    seed: int,
    teacher_folders: Mapping[str, Path] | None = None,
    teacher_inputs: Mapping[str, InputContract] | None = None,
    initial_heads: Mapping[str, InitialHead] | None = None,
) -> Student:
    """The student of a recipe, with its initial weights. The global random state is left as it was.

    Args:
        section: what the recipe says, with the architecture.
        kinds: task -> its kind.
        hint_layers: further features that training reads; None stands for the trunk's last stage.
        seed: of the random weights.
        teacher_folders, teacher_inputs: task -> its teacher's folder and input, for `init: teacher:TASK`.
        initial_heads: task -> the trained head that its own begins with; without one it is random.

    Raises:
        StudentError: the trunk cannot be built as asked, or its first weights cannot be had.
    """
    if section.architecture is None:
        raise StudentError(
            f"student.init: {section.init} is not a student's folder, so its architecture is unknown. "
            "Add `model`, or correct the path."
        )
    memory = within_memory(
        "training this student", "Choose a smaller one.", trained=not torch.cuda.is_available()
    )
    with torch.random.fork_rng(devices=[]), memory:
        torch.manual_seed(seed)
        try:
            trunk = create_trunk(section, pretrained=section.init == "pretrained")
            body = shaped(trunk, section.layout, list(kinds))
            load_initial(body, section.init, teacher_folders or {}, teacher_inputs or {}, list(kinds))
            student = Student(body, kinds)
            for task, source in (initial_heads or {}).items():
                load_initial_head(student.heads[task], kinds[task], task, source)
            student.tap([layer or body.last for layer in hint_layers])
        except StudentError:
            raise
        except UserError as error:
            raise StudentError(f"student: {error}") from error
        _freeze_unread(student)
    return student


def create_trunk(section: StudentSection, *, pretrained: bool) -> Trunk:
    """The whole trunk of a recipe's student, whose architecture is known.

    Raises:
        StudentError: it cannot be built as asked, or is code that is not trusted.
    """
    if section.module is not None:
        from distill_mtl.students.families.own_code import trust_code

        try:
            trust_code(section.module, trust=section.trust, say="`trust: true` in `student`")
        except UserError as error:
            raise StudentError(f"student.module: {error}") from error
    family, name = split_family(str(section.architecture))
    size = section.input_size
    size = (size, size) if isinstance(size, int) else size
    return FAMILIES[family].create(name, section.family_args, size, pretrained=pretrained)


def load_initial(
    trunk: Body,
    init: str,
    teacher_folders: Mapping[str, Path],
    teacher_inputs: Mapping[str, InputContract],
    tasks: Sequence[str] = (),
) -> None:
    """Fill a trunk's weights as `student.init` says. Of a trunk in parts every part gets its stages.

    From a folder the normalisation is taken along, because the weights expect it; the size is not.

    Args:
        trunk: freshly created; `pretrained` and `random` are already done.
        init: `pretrained`, `random`, `zip` (done later), `teacher:TASK`, or a folder or .safetensors file with the
            weights of a timm network or of a student, or the folder of the run that left a student.
        teacher_folders: task -> its teacher's folder, or file of weights.
        teacher_inputs: task -> what its teacher wants to see, as the recipe may have corrected it; where it is
            not named, the folder's word is taken.
        tasks: of the student.

    Raises:
        StudentError: there is no such teacher or file, or it has another architecture.
    """
    if init == TEACHERS:
        _begin_as_teachers(trunk, teacher_folders, teacher_inputs, tasks)
    if init in INITS:
        return
    path, inputs = Path(init), None
    if init.startswith(_TEACHER):
        task = init.removeprefix(_TEACHER)
        if task not in teacher_folders:
            known = ", ".join(f"{_TEACHER}{name}" for name in teacher_folders) or "none"
            raise StudentError(
                f"student.init: no task '{task}' with a teacher. Teachers to begin with: {known}."
            )
        path, inputs, tasks = Path(teacher_folders[task]), teacher_inputs.get(task), [task]
    if not path.exists():
        raise StudentError(
            f"student.init: '{init}' is neither pretrained, random, zip nor {_TEACHER}TASK, and there is no such "
            "folder or file."
        )
    path = network_folder(path)
    try:
        state = _state_for(trunk, path, tasks)
    except UserError as error:
        raise StudentError(f"student.init: {error}") from error
    try:
        load_exactly(trunk.model, state, str(path))
        if inputs is None and path.is_dir():
            inputs = _contract(path)
        if inputs is not None:
            trunk.preprocess = Preprocess(seen_by_student(inputs, trunk))
    except UserError as error:
        raise StudentError(
            f"student.init: {error}\nThe student is {trunk.name} {trunk.args}; it can only begin with the "
            "weights of the same architecture and arguments."
        ) from error


def load_initial_head(head: nn.Module, kind: TaskKind, task: str, source: InitialHead) -> None:
    """Fill a head's weights with those of a trained one, its outputs in the order of the task's classes.

    What stands for a class that the trained one does not know keeps its random weights.

    Args:
        head: freshly created.
        kind: of the task.
        task: its name in the recipe.
        source: whose head.

    Raises:
        StudentError: the teacher is not a folder of ours or of timm's, or its head is another one, or computes with
            other options.
    """
    try:
        state = _head_weights(head, kind, task, source)
        _order_outputs(state, head, source.labels)
        load_exactly(
            head, state, f"the {'student' if source.inherited else 'teacher'}'s head in {source.place}"
        )
    except UserError as error:
        if source.inherited:
            raise StudentError(f"tasks.{task}.head: {error}\n{ANEW}") from error
        raise StudentError(
            f"tasks.{task}.head.init: {error}\nBegin with the teacher's head where it reads the same features: the "
            "student has the teacher's trunk, and `head` the teacher's width and depth. Otherwise use "
            "`init: random`."
        ) from error


def _freeze_unread(student: Student) -> None:
    """Take the parameters that no feature depends on out of training.

    A final norm behind the last tapped block, for instance. They would never get a gradient, and
    DistributedDataParallel would wait for it.
    """
    read = student.trunk.parameters_behind(student.trunk.tapped)
    for name, parameter in student.trunk.named_parameters():
        parameter.requires_grad_(name in read)


def _begin_as_teachers(
    trunk: Body,
    folders: Mapping[str, Path],
    inputs: Mapping[str, InputContract],
    tasks: Sequence[str],
) -> None:
    """Fill the path of each task with the weights of its own teacher.

    Raises:
        StudentError: a task has no teacher, or one of another architecture; teachers want different pixels; or tasks
            share weights.
    """
    instead = f"Begin with `init: {_TEACHER}TASK`, the same for all, or `pretrained`."
    if missing := [task for task in tasks if task not in folders]:
        raise StudentError(
            f"student.init: teachers: {', '.join(missing)} has no teacher to begin as. {instead}"
        )
    whole = FAMILIES[trunk.family].restore(trunk.describe_whole())
    paths, wanted = {}, {}
    for task in tasks:
        try:
            path = network_folder(Path(folders[task]))
            paths[task] = _state_for(whole, path, [task])
            load_exactly(whole.model, paths[task], str(path))
            told = inputs.get(task) or (_contract(path) if path.is_dir() else trunk.inputs)
            wanted[task] = seen_by_student(told, trunk)
        except UserError as error:
            raise StudentError(
                f"student.init: teachers: the teacher of {task} is no {trunk.name} {trunk.args}, which every column "
                f"is: {error} {instead}"
            ) from error
    first, *others = wanted
    for other in others:
        one, two = wanted[first].to_dict(), wanted[other].to_dict()
        if differ := [key for key in one if one[key] != two[key]]:
            raise StudentError(
                f"student.init: teachers: {first} and {other} want different pixels ({', '.join(differ)}), and all "
                f"columns see the same. {instead}"
            )
    try:
        state = trunk.from_paths(paths)
    except UserError as error:
        raise StudentError(
            f"student.init: teachers: {error} Columns have weights for each task: `columns: cross_stitch`; `init: zip` "
            "merges teachers into what they share."
        ) from error
    load_exactly(trunk.model, state, "the teachers")
    trunk.preprocess = Preprocess(wanted[first])


def _state_for(trunk: Body, path: Path, tasks: Sequence[str]) -> dict[str, Tensor]:
    """The state dict of a trunk's network from a folder, or a file.

    Args:
        trunk: to be filled.
        path: of a network. Where it is a student in parts, every part of the trunk begins with the path of its tasks,
            and one of new tasks alone with that of the first.
        tasks: whose paths are taken; the first task of such a student where it has none of them.

    Raises:
        UserError: tasks that share a part have parted in the old student.
    """
    state = _trunk_weights(read_weights(path), trunk)
    config = read_config(path) if path.is_dir() else {}
    if config.get("format") != FORMAT:
        return trunk.from_whole(state)
    described = described_student(path, config)
    layout, known = described_layout(path, described), list(described["tasks"])
    if not layout:
        return trunk.from_whole(state)
    old = restore_body(described["trunk"], layout, known)
    load_exactly(old.model, state, str(path))
    taken = [task for task in known if task in tasks] or known[:1]
    return trunk.from_body(old, taken)


def _trunk_weights(state: Mapping[str, Tensor], trunk: Body) -> dict[str, Tensor]:
    """The tensors of a trunk in a state dict of a student, of a timm classifier, or of a bare trunk."""
    if any(key.startswith(_TRUNK) for key in state):
        return {key.removeprefix(_TRUNK): value for key, value in state.items() if not key.startswith(_HEADS)}
    ends = tuple(f"{name}.{part}" for name in trunk.classifier() for part in ("weight", "bias"))
    return {key: value for key, value in state.items() if key not in ends}


def seen_by_student(inputs: InputContract, trunk: Body) -> InputContract:
    """What the weights expect of colours and numbers, at the trunk's own size and in torch's own form."""
    return replace(
        inputs,
        size=trunk.inputs.size,
        resize="squash",
        crop=1.0,
        layout="nchw",
        dtype="float32",
        batch=None,
    )


def _contract(folder: Path) -> InputContract:
    """The input contract in a network's folder, of either form."""
    config = read_config(folder)
    if "trunk" in config:
        return InputContract.from_dict(config["trunk"]["inputs"])
    return InputContract.from_timm(config.get("pretrained_cfg", config))


def _head_weights(head: nn.Module, kind: TaskKind, task: str, source: InitialHead) -> dict[str, Tensor]:
    """The tensors of the teacher's head, by the names they have in ours."""
    place = source.place
    if not place.is_dir():
        raise UserError(f"{place} is a whole network in one file, which does not say which part is its head.")
    config, state = read_config(place), read_weights(place)
    if config.get("format") == FORMAT:
        named = chosen_task(place, list(config["tasks"]), source.asked, task)
        _refuse_other_options(kind, config["tasks"][named], place)
        prefix = f"heads.{named}."
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    name, answer = _classifier(config), _answer(head)
    if not isinstance(name, str) or answer is None:
        raise UserError(f"{place} has no single linear classifier that could stand for this head.")
    parts = {part: state.get(f"{name}.{part}") for part in ("weight", "bias")}
    one = kind.exclusive and all(value is None or value.shape[:1] == (1,) for value in parts.values())
    return {
        # A single logit is the second of two classes (`task_network.two_classes`).
        f"{answer}.{part}": torch.cat([torch.zeros_like(value), value]) if one else value
        for part, value in parts.items()
        if value is not None
    }


def _refuse_other_options(kind: TaskKind, entry: Mapping[str, Any], place: Path) -> None:
    mine = kind.describe()
    for option in kind.head_options:
        if entry.get(option) != mine[option]:
            raise UserError(
                f"the head in {place} was trained with `{option}: {entry.get(option)}`, the task has {mine[option]}, "
                f"under which its weights would mean something else. Write the same under `options`."
            )


def _classifier(config: Mapping[str, Any]) -> Any:
    """Dotted name of the classifier of a network in timm's form; several for a network with several."""
    said = config.get("pretrained_cfg", {}).get("classifier")
    if said is None and timm.is_model(config.get("architecture", "")):
        known = timm.models.get_pretrained_cfg(config["architecture"])
        said = known.classifier if known is not None else None
    return said


def _answer(head: nn.Module) -> str | None:
    """Dotted name of the layer that gives the logits, where the head says which it is."""
    answer = getattr(head, "answer", None)
    return next((name for name, module in head.named_modules() if module is answer), None)


def _order_outputs(state: dict[str, Tensor], head: nn.Module, labels: "LabelMap") -> None:
    """Put what stands for the teacher's outputs where the task has their classes."""
    if labels.known is None and labels.outputs == tuple(range(labels.width)):
        return
    answer, own = _answer(head), head.state_dict()
    if answer is None:
        raise UserError(
            "the teacher's classes are other ones, or in another order, and its head cannot be reordered."
        )
    taken = [*labels.outputs, *range(labels.width, labels.width + labels.rest)]
    count = len(labels.classes)
    places = [*(labels.known or range(count)), *range(count, count + labels.rest)]
    for key in (f"{answer}.weight", f"{answer}.bias"):
        mine = own.get(key)
        if mine is not None and key in state and state[key].shape[1:] == mine.shape[1:]:
            index = torch.tensor(places, device=mine.device)
            state[key] = mine.index_copy(0, index, state[key][taken].to(mine.dtype))


def _architecture(model: str) -> tuple[str, str]:
    """Family and name, without the tag of pretrained weights."""
    family, name = split_family(model)
    return family, name if family == OWN_CODE else name.partition(".")[0]
