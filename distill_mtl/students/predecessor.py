"""The student that a student begins as: `student.init` names its folder, or that of the run that left it.

Its architecture and size are the defaults of the new one's, and its heads are those that the tasks of the same
names begin with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_mtl.errors import StudentError, UserError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.weights import CONFIG, network_folder, read_config
from distill_mtl.recipe.schema import INITS, StudentSection, TaskSection
from distill_mtl.students.format import FORMAT, chosen_head
from distill_mtl.students.trunk import DEFAULT_FAMILY, split_family

_FIXED = "img_size"  # timm's word for the size that position tables are made for


@dataclass(frozen=True)
class Predecessor:
    """What the config of the folder says.

    Attributes:
        folder: where it lies.
        model: what `student.model` would say for its trunk.
        args: of the architecture.
        size: height and width of its images.
        tasks: name -> what describes the kind of each task that it has a head for.
    """

    folder: Path
    model: str
    args: Mapping[str, Any]
    size: tuple[int, int]
    tasks: Mapping[str, Mapping[str, Any]]

    def settle(self, section: StudentSection) -> StudentSection:
        """The section with this student's architecture and size where it names none.

        Raises:
            StudentError: it names another architecture.
        """
        model = section.model or self.model
        if _architecture(model) != _architecture(self.model):
            raise StudentError(
                f"student.init: {self.folder} holds a {self.model}, and student.model says {model}. Remove `model`, or "
                "begin with something else (`init: random`) and let the old student teach."
            )
        size = section.input_size or self.size
        height_width = (size, size) if isinstance(size, int) else size
        args = section.args or {
            key: value for key, value in self.args.items() if key != _FIXED or height_width == self.size
        }
        return section.model_copy(update={"model": model, "input_size": size, "args": dict(args)})

    def head_of(self, task: str, section: TaskSection) -> str | None:
        """The head that the task's begins with, unless the recipe says otherwise; None: it begins anew.

        It is the one that teaches the task, where this student does, else the one of the task's name.
        """
        if section.head.init is not None:
            return None
        teacher = section.teacher
        if teacher is not None and teacher.path and network_folder(Path(teacher.path)) == self.folder:
            return chosen_head(self.folder, list(self.tasks), teacher.task, task)
        return task if task in self.tasks else None


def _architecture(model: str) -> tuple[str, str]:
    """Family and name, without the tag of pretrained weights."""
    family, name = split_family(model)
    return family, name.partition(".")[0]


def find_predecessor(init: str) -> Predecessor | None:
    """The student whose folder `student.init` names; None where it names something else, or nothing that is there.

    Raises:
        StudentError: its config cannot be understood.
    """
    if init in INITS or init.startswith("teacher:"):
        return None
    folder = network_folder(Path(init))
    if not (folder / CONFIG).is_file():
        return None
    try:
        config = read_config(folder)
        if config.get("format") != FORMAT:
            return None
        trunk = config["trunk"]
        family, model = trunk["family"], trunk["model"]
        return Predecessor(
            folder=folder,
            model=model if family == DEFAULT_FAMILY else f"{family}:{model}",
            args=trunk["args"],
            size=InputContract.from_dict(trunk["inputs"]).size,
            tasks=dict(config["tasks"]),
        )
    except (UserError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise StudentError(f"student.init: {folder / CONFIG} cannot be understood: {error!r}.") from error
