"""The two forms of `student.branch`, and what is wrong with one before the network is known."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

OWN = "own"
"""In place of groups: every task its own."""

ROOT = "root"
"""Name of the part that all tasks share."""

Groups = Sequence[Sequence[str]]
Branches = Mapping[str, str | Groups]
"""Task -> the stage with which it leaves the others; or stage -> groups of tasks, or `own`."""


def by_task(branches: Branches) -> bool:
    """Whether the keys are tasks and the values stages."""
    return all(isinstance(value, str) and value != OWN for value in branches.values())


def mistakes_of_groups(groups: Groups, tasks: Sequence[str]) -> list[str]:
    """What is wrong with the groups of a stage, every task once."""
    found = Counter(chain(*groups))
    said = [f"{task} is in {count} groups. Keep one." for task, count in found.items() if count > 1]
    if missing := [task for task in tasks if task not in found]:
        said.append(f"{', '.join(missing)} is in no group. Every task needs one.")
    if not all(groups):
        said.append("found a group without a task. Remove it.")
    return said
