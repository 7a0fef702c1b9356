"""The lines of a recipe that name one teacher, with everything that had to be said, and what was assumed."""

from typing import Any

from distill_mtl.recipe.commented import Noted
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.card import TeacherCard

ASSUMED = "assumed: check it"
PINNED = "of the program that you trust: another one is refused"
_SHOWN = 10  # names of classes
_FIRST = ("path", "timm", "module", "args", "weights", "trust", "sha256")


def teacher_lines(section: TeacherSection, card: TeacherCard) -> Any:
    """What stands behind `teacher:`: a path alone, or a section.

    Args:
        section: as it was said, with paths as they were typed.
        card: of the loaded teacher.
    """
    said = section.model_dump(mode="json", exclude_defaults=True)
    inputs: dict[str, Any] = dict(said.pop("input", {}))
    contract = card.inputs.to_dict()
    inputs |= {key: Noted(contract[key], ASSUMED) for key in card.assumed}
    entry: dict[str, Any] = {**said, **({"input": inputs} if inputs else {})}
    if card.program is None:
        entry.pop("trust", None)
    elif section.sha256 is None:
        entry["sha256"] = Noted(card.sha256, PINNED)
    if set(entry) == {"path"}:
        return entry["path"]
    return {key: entry[key] for key in (*_FIRST, *entry) if key in entry}


def classes_in_words(card: TeacherCard) -> str:
    """`3 (cat, dog, owl)`, with not too many of them; `10 (numbered from 0)` where they have no names."""
    count = len(card.classes)
    if card.classes == tuple(str(index) for index in range(count)):
        return f"{count} (numbered from 0)"
    shown = ", ".join(card.classes[:_SHOWN]) + (", …" if count > _SHOWN else "")
    return f"{count} ({shown})"
