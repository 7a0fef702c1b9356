"""From a recipe's `teacher` to where its network lies; what may not be opened is refused here."""

from pathlib import Path

from distill_mtl.errors import UserError
from distill_mtl.networks.hub_repository import PREFIXES, fetch_folder, timm_repository
from distill_mtl.networks.task_network import Origin
from distill_mtl.networks.weights import network_folder, sha256
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.folder import FolderOrigin
from distill_mtl.teachers.run_file import file_origin, module_origin


def find_origin(section: TeacherSection, task: str) -> Origin:
    """Where a teacher comes from; its network is not opened, but a hub's folder is fetched.

    Args:
        section: of the recipe.
        task: that it is to teach.

    Raises:
        UserError: it is not there, is a program that is not trusted, or is not the pinned file.
    """
    origin = _origin(section, task)
    if origin.program is not None and not section.trust:
        raise UserError(
            f"{section.module or origin.place} is {origin.program}: code, which can do whatever you can do on this "
            "machine. If you trust where it comes from, say so with `trust: true` (on the command line: --trust). "
            "Folders with safetensors and .onnx files are data alone and need no trust."
        )
    if section.sha256 is not None and not origin.files[0].is_file():
        raise UserError(f"{origin.files[0]} does not exist.")
    if section.sha256 is not None and (found := sha256(origin.files[0])) != section.sha256:
        raise UserError(
            f"{origin.files[0]} is not the file that the recipe pins: its sha256 is {found}, expected "
            f"{section.sha256}. Fetch the right file, or correct `sha256`."
        )
    return origin


def _origin(section: TeacherSection, task: str) -> Origin:
    if section.module is not None:
        return module_origin(section, task)
    if section.timm is not None:
        return FolderOrigin(fetch_folder(timm_repository(section.timm)), section, task)
    if section.path is None:
        raise UserError("names no network. Add `path`, `timm` or `module`.")
    if section.path.startswith(PREFIXES):
        return FolderOrigin(fetch_folder(section.path.partition(":")[2]), section, task)
    path = Path(section.path)
    if path.is_dir() or not path.suffix:
        return FolderOrigin(network_folder(path), section, task)
    return file_origin(path, section, task)
