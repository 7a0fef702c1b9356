"""Kinds of task that a user brings: `my_tasks:Angle`, a class in a Python file beside the recipe.

Such a kind is known to the rest of the program under that very name once it is admitted, so a student's folder
names the code that it needs.
"""

import inspect
import os
import sys

from distill_mtl.errors import UserError
from distill_mtl.tasks.base import KINDS, TaskKind
from distill_mtl.user_code import attribute_of, import_module, working_directory_importable

_NEEDED = ("member", "metrics")  # attributes that have no default


def is_own(kind: str) -> bool:
    """Whether a kind's name is that of a user's class."""
    return ":" in kind


def admit_kind(kind: str, *, trust: bool, say: str) -> None:
    """Import a user's kind, so that `KINDS` knows it; nothing for any other, or one admitted before.

    Args:
        kind: as a recipe or a student's folder names it.
        trust: whether its code may run.
        say: how the user says so, for the message.

    Raises:
        UserError: it is not trusted, there is no such class, or the class is no whole kind of task.
    """
    if not is_own(kind) or kind in KINDS.names():
        return
    if not trust:
        raise UserError(
            f"{kind} is code, which can do whatever you can do on this machine. If you trust where it comes from, "
            f"say so with {say}."
        )
    KINDS.register(kind)(_import(kind))


def _import(kind: str) -> type[TaskKind]:
    module_name, _, name = kind.partition(":")
    if not (module_name and name):
        raise UserError(f"'{kind}' names no kind of task. Write `module:Class`, as `my_tasks:Angle`.")
    with working_directory_importable():
        module = import_module(module_name)
        found = attribute_of(module, name)
    if not (isinstance(found, type) and issubclass(found, TaskKind)):
        raise UserError(f"{kind} is no kind of task: derive the class from distill_mtl.tasks.base.TaskKind.")
    missing = [*sorted(found.__abstractmethods__), *(key for key in _NEEDED if not hasattr(found, key))]
    if inspect.isabstract(found) or missing:
        raise UserError(f"{kind} lacks what every kind of task has: {', '.join(missing)}.")
    found.name = kind
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # a process that begins anew, as a DataLoader's worker may, imports it by name
    return found
