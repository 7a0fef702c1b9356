"""Names in a recipe, and the classes they stand for.

A kind of task or a family of students lives in one file of its folder and registers itself there by
the name that a recipe uses. The folder is imported on the first look-up, so adding a file is all it
takes to add a name.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from distill_mtl.errors import UserError, nearest

Entry = TypeVar("Entry", bound=type[Any])


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
            UserError: nobody registered that name; the message lists the names and the nearest one.
        """
        names = self.names()
        if name not in self._entries:
            known = ", ".join(names)
            raise UserError(f"unknown {self.what} '{name}'.{nearest(name, names)} Known: {known}.")
        return self._entries[name]
