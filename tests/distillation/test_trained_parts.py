import pytest
import toys
from torch import nn

from distill_mtl.distillation.stages import named_parameters, only_train
from distill_mtl.distillation.terms.hint import Hint, HintTerm
from distill_mtl.errors import UserError
from distill_mtl.students.student import Student

KINDS = {"a": toys.classification(3), "b": toys.segmentation(2)}


@pytest.fixture
def student() -> Student:
    return toys.toy_student(KINDS)


def test_parts_stand_for_parameters_as_the_objective_names_them(student: Student) -> None:
    shape = student.trunk.shapes["second"]
    terms = {"a": [HintTerm([Hint(shape, shape)])]}

    def names(part: str, *guided: str) -> set[str]:
        return set(
            named_parameters(student, terms, part, {next(iter(student.kinds)): guided} if guided else None)
        )

    assert names("adapters") == {f"terms.a.hint.adapters.0.adapter.{name}" for name in ("weight", "bias")}
    assert names("heads:a") == {"student.heads.a.linear.weight", "student.heads.a.linear.bias"}
    assert names("heads") > names("heads:a")
    first = {"student.trunk.model.first.0.weight", "student.trunk.model.first.0.bias"}
    assert names("trunk:first") == names("guided", "first") == first
    assert names("trunk") == names("trunk:second") == names("guided", "first", "second") > first
    assert names("guided") == set()


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("trunk:frist", "layer 'frist'.*'first'"),
        ("heads:c", "head 'c'"),
        ("trunks", "part 'trunks'.*'trunk'"),
    ],
)
def test_a_part_that_is_not_there_is_refused(student: Student, part: str, found: str) -> None:
    returns = student.trunk.returns
    with pytest.raises(UserError, match=found):
        named_parameters(student, {}, part)
    assert student.trunk.returns == returns


def test_what_does_not_train_is_in_evaluation_mode_with_what_has_no_parameters(student: Student) -> None:
    student.trunk.model.first.append(nn.BatchNorm2d(6, affine=False))
    student.trunk.model.second.append(nn.Dropout())
    only_train(student, named_parameters(student, {}, "trunk:first"), "student.")
    model = student.trunk.model
    assert model.training
    assert all(module.training for module in model.first.modules())
    assert not any(module.training for module in model.second.modules())
    assert not any(module.training for module in student.heads.modules())
