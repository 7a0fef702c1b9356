"""What to tell who gave `evaluate` something else than the folder of a finished run."""

from distill_mtl.errors import UserError, nearest
from distill_mtl.run_files import RunFiles


def refuse_no_run(run: RunFiles) -> None:
    """Refuse what is no folder of a finished run.

    Raises:
        UserError: the path is not there, is a file, is the student of a run, or holds no recipe or no student.
    """
    path = run.path
    owner = RunFiles(path.resolve().parent)
    if not path.exists():
        beside = path.parent
        there = [str(each) for each in beside.iterdir() if each.is_dir()] if beside.is_dir() else []
        raise UserError(
            f"there is no run folder {path}.{nearest(str(path), there)} Give a folder like runs/NAME."
        )
    if not path.is_dir():
        raise UserError(
            f"{path} is a file, and no run folder. Compare a model's file with "
            f"`distill-mtl evaluate --student {path} --against RUN --data SHARDS`."
        )
    if owner.student == path.resolve() and owner.recipe.exists():
        raise UserError(f"{path} is the student of {path.parent}: give {path.parent}.")
    for needed in (run.recipe, run.student):
        if not needed.exists():
            raise UserError(
                f"{path} holds no finished run: there is no {needed.name}. Give a folder like runs/NAME."
            )
