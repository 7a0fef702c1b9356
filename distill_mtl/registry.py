"""Names in a recipe, and the classes they stand for: ours by a registry, the user's as `module:attribute`.

A kind of task or a family of students lives in one file of its folder and registers itself there by
the name that a recipe uses. The folder is imported on the first look-up, so adding a file is all it
takes to add a name. The user's own code is imported only where it is trusted.
"""

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, Generic, TypeVar

from distill_mtl.errors import UserError, brief, nearest

Entry = TypeVar("Entry", bound=type[Any])
Base = TypeVar("Base")


class Registry(Generic[Entry]):
    """Classes by name, filled by the modules of one package as they are imported.

    Args:
        what: what an entry is, in the words of an error message ("kind of task").
        package: the package whose modules register entries ("distill_mtl.tasks").
    """

    def __init__(self, what: str, package: str) -> None:
        self.what = what
        self.package = package
        self._entries: dict[str, Entry] = {}
        self._filled = False

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Class decorator: make the class known as `name`."""

        def add(entry: Entry) -> Entry:
            if name in self._entries:
                raise ValueError(f"{self.what} '{name}' is registered twice")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """Every known name, sorted."""
        if not self._filled:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._filled = True
        return sorted(self._entries)

    def __getitem__(self, name: str) -> Entry:
        """The class known as `name`.

        Raises:
            UserError: the name is not registered; the message lists the names and the nearest one.
        """
        names = self.names()
        if name not in self._entries:
            known = ", ".join(names)
            raise UserError(f"unknown {self.what} '{name}'.{nearest(name, names)} Known: {known}.")
        return self._entries[name]


def import_class(name: str, base: type[Base], what: str) -> type[Base]:
    """The user's class of that name, `module:Class`.

    Args:
        name: as a recipe or a student's folder has it.
        base: that it must derive from.
        what: it is, in the words of a message ("kind of task").

    Raises:
        UserError: there is no such class, or it derives from something else.
    """
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise UserError(f"'{name}' does not name a {what}. Write `module:Class`.")
    with working_directory_importable():
        found = attribute_of(import_module(module_name), attribute)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(
            f"{name} is not a {what}: derive the class from {base.__module__}.{base.__qualname__}."
        )
    here = os.getcwd()
    if here not in sys.path:
        sys.path.append(here)  # a process that begins anew, as a DataLoader's worker may, imports it by name
    return found


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """The command line's own sys.path begins with the folder of the command, not with the user's."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


def import_module(name: str) -> ModuleType:
    """The module of that name, run if it is new.

    Raises:
        UserError: there is none, or running it fails.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name + ".").startswith(error.name + "."):
            raise UserError(f"importing {name} failed: {brief(error)}. Install it.") from error
        searched = ", ".join(list(dict.fromkeys(sys.path))[:3])
        missing = f"'{name}'" if error.name == name else f"'{error.name}' to import {name} from"
        raise UserError(
            f"there is no module {missing}. Searched: {searched}, … . Run from the "
            "folder that holds it, or set PYTHONPATH."
        ) from error
    # Whatever the user's code raises; some scripts exit.
    except (Exception, SystemExit) as error:
        raise UserError(f"importing {name} failed with {type(error).__name__}: {brief(error)}.") from error


def attribute_of(module: ModuleType, name: str) -> Any:
    """What the module has under that name. Raises UserError if it has nothing."""
    found = getattr(module, name, None)
    if found is None:
        public = [known for known in vars(module) if not known.startswith("_")]
        raise UserError(f"{module.__name__} ({module.__file__}) has no '{name}'.{nearest(name, public)}")
    return found
