"""Packages that only an extra brings, imported when they are needed."""

import importlib
from typing import Any

from distill_mtl.errors import UserError, brief


def extra(module: str, name: str, what: str) -> Any:
    """Import a module of an extra's package.

    Args:
        module: to import.
        name: of the extra.
        what: needs it: "an OpenVINO file".

    Raises:
        UserError: it is not installed, or does not load; with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        # Where something else is missing, or a library of the system, installing the package again does not help.
        found = "" if isinstance(error, ModuleNotFoundError) else f" ({brief(error)})"
        raise UserError(
            f"{what} needs the package {package}{found}: pip install 'distill_mtl[{name}]'."
        ) from error
