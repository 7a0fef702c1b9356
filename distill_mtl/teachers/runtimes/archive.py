"""The texts that go along in PyTorch's zip archives (torch.export and TorchScript), under `extra/`."""

import zipfile
from pathlib import Path

from distill_mtl.errors import UserError


def read_extra_files(path: Path) -> dict[str, str]:
    """The extra files by name; those that are not text are left out.

    Raises:
        UserError: there is no such file, or it is no zip archive.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist.")
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"{path} is not an archive that PyTorch wrote. Is it cut short? Fetch or save it again."
        )
    texts: dict[str, str] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            # The first part is the archive's own name, whatever the file is called now.
            _, _, inside = entry.partition("/")
            if not inside.startswith("extra/") or entry.endswith("/"):
                continue
            try:
                texts[inside.removeprefix("extra/")] = archive.read(entry).decode("utf-8")
            except UnicodeDecodeError:
                continue
    return texts
