from pathlib import Path

from teacher_folders import edit_config, timm_folder

from distill_mtl.networks.opening import find_network
from distill_mtl.recipe.schema import InputSection, TeacherSection
from distill_mtl.teachers.load_teacher import teacher_fingerprint


def fingerprint(
    folder: Path, layers: tuple[str | None, ...] = (None,), classes: int | None = None, **section: object
) -> str:
    chosen = TeacherSection(path=str(folder), **section)
    return teacher_fingerprint(chosen, find_network(chosen), layers, classes, "classification", {})


def test_the_fingerprint_follows_everything_that_changes_an_answer(tmp_path: Path) -> None:
    timm_folder(tmp_path / "t")
    timm_folder(tmp_path / "other")
    prints = {
        fingerprint(tmp_path / "t"),
        fingerprint(tmp_path / "t", ("layer3",)),
        fingerprint(tmp_path / "t", classes=4),
        fingerprint(tmp_path / "t", input=InputSection(channels="bgr")),
        fingerprint(tmp_path / "other"),
    }
    assert len(prints) == 5
    before = fingerprint(tmp_path / "t")
    edit_config(tmp_path / "t", label_names=["cat", "dog", "owl", "eel"])
    assert fingerprint(tmp_path / "t") != before


def test_the_fingerprint_ignores_where_a_teacher_lies_and_what_is_expected_of_it(tmp_path: Path) -> None:
    timm_folder(tmp_path / "t")
    before = fingerprint(tmp_path / "t")
    (tmp_path / "t").rename(tmp_path / "elsewhere")
    assert fingerprint(tmp_path / "elsewhere", expect=90.0, trust=True) == before
