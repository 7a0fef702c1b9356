"""Teachers that lie in one file: its trunk is kept once and runs once, however many tasks ask it."""

from collections.abc import Iterable

from distill_mtl.teachers.teacher import Teacher


def share_trunks(teachers: Iterable[Teacher]) -> None:
    """Let teachers of the same files, code, input contract and device use one trunk.

    Two heads of a student folder, or two outputs of an ONNX file, answer for two tasks in one pass.
    """
    first: dict[tuple[object, ...], Teacher] = {}
    for teacher in teachers:
        files = tuple(teacher.card.files.values())
        key = (type(teacher.network), files, teacher.card.code, teacher.card.inputs, teacher.home)
        owner = first.setdefault(key, teacher)
        if owner is not teacher:
            teacher.network.join(owner.network)


def by_trunk(teachers: dict[str, Teacher]) -> list[dict[str, Teacher]]:
    """The teachers of each trunk by task, in the order of the recipe."""
    groups: dict[int, dict[str, Teacher]] = {}
    for task, teacher in teachers.items():
        groups.setdefault(id(teacher.network.trunk), {})[task] = teacher
    return list(groups.values())
