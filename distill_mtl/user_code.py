"""Imports of the user's own code, as `module:attribute`: networks and kinds of task. Only for code that is trusted."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

from distill_mtl.errors import UserError, brief, nearest


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
        searched = ", ".join(sys.path[:3])
        raise UserError(
            f"there is no module '{error.name}' to import {name} from. Searched: {searched}, … . Run from the "
            "folder that holds it, or set PYTHONPATH."
        ) from error
    # Whatever the user's code raises; some scripts exit.
    except (Exception, SystemExit) as error:
        raise UserError(f"importing {name} failed with {type(error).__name__}: {brief(error)}.") from error


def attribute_of(module: ModuleType, name: str) -> Any:
    """What the module calls so. Raises UserError if it has no such thing."""
    found = getattr(module, name, None)
    if found is None:
        public = [known for known in vars(module) if not known.startswith("_")]
        raise UserError(f"{module.__name__} ({module.__file__}) has no '{name}'.{nearest(name, public)}")
    return found
