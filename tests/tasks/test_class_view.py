"""What a network or a data set says that knows some classes of a task: losses, labels, averages."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.class_view import class_view

TEMPERATURE = 3.0


def scene() -> TaskKind:
    """Background, car, person; data set `a` tells of cars."""
    kind = build_kind("segmentation", ["background", "car", "person"])
    kind.knows = {"a": (0, 1)}
    return kind


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(loss.sum(), logits)
    return found


# ---- soft targets
def test_the_background_of_a_teacher_is_all_that_it_does_not_know() -> None:
    view = class_view(scene(), (0, 1))
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    merged = view.of_student(logits, TEMPERATURE)
    whole, part = ((one / TEMPERATURE).softmax(1) for one in (logits, merged))
    assert torch.allclose(part[:, 0], whole[:, 0] + whole[:, 2], atol=1e-6)
    assert torch.allclose(part[:, 1], whole[:, 1], atol=1e-6)
    teacher = view.of_teacher(torch.randn(2, 3, 4, 4))
    slope = gradient(view.kind.soft_target_loss(merged, teacher, TEMPERATURE), logits)
    # The mass that is no car is pushed as one: its gradient is divided by the student's own shares.
    other = slope[:, [0, 2]].sum(1, keepdim=True)
    shares = whole[:, [0, 2]] / whole[:, [0, 2]].sum(1, keepdim=True)
    assert torch.allclose(slope[:, [0, 2]], other * shares, atol=1e-5)


@pytest.mark.parametrize("ground", [True, False])
def test_a_student_that_agrees_on_what_a_teacher_knows_has_no_loss(ground: bool) -> None:
    names = ["background" if ground else "plane", "car", "person", "dog"]
    kind, known = build_kind("classification", names), (0, 1)
    view = class_view(kind, known)
    teacher = torch.randn(5, 2)
    student = torch.randn(5, 4)
    if ground:  # cars as likely, whatever is in the rest
        rest = torch.randn(5, 3).log_softmax(1) + F.logsigmoid(teacher[:, :1] - teacher[:, 1:])
        car = F.logsigmoid(teacher[:, 1:] - teacher[:, :1])
        student = torch.cat([rest[:, :1], car, rest[:, 1:]], 1)
    else:
        student[:, :2] = teacher + 7
    student.requires_grad_()
    loss = view.kind.soft_target_loss(view.of_student(student, 1.0), teacher, 1.0)
    assert torch.allclose(loss, torch.zeros(5), atol=1e-6)
    assert torch.allclose(gradient(loss, student), torch.zeros(5, 4), atol=1e-6)


def test_without_a_background_only_the_ratios_of_known_classes_are_compared() -> None:
    view = class_view(build_kind("classification", ["cat", "dog", "owl"]), (0, 1))
    logits = torch.randn(4, 3, requires_grad=True)
    loss = view.kind.soft_target_loss(view.of_student(logits, 2.0), torch.randn(4, 2), 2.0)
    assert torch.equal(gradient(loss, logits)[:, 2], torch.zeros(4))


@pytest.mark.parametrize("kind", ["multilabel", "heatmap"])
def test_attributes_and_heat_maps_are_compared_class_by_class(kind: str) -> None:
    whole = build_kind(kind, ["a", "b", "c"])
    shape = (2, whole.outputs) + ((4, 4) if kind == "heatmap" else ())
    view, logits = class_view(whole, (0, 2)), torch.randn(shape, requires_grad=True)
    teacher = view.of_teacher(torch.randn(shape))
    slope = gradient(view.kind.soft_target_loss(view.of_student(logits, 2.0), teacher, 2.0), logits)
    assert not slope[:, 1].any()
    assert slope[:, 0].any()
    assert slope[:, 2].any()
    same = view.kind.soft_target_loss(view.of_student(logits, 2.0), view.of_student(logits).detach(), 2.0)
    assert torch.allclose(same, torch.zeros(2), atol=1e-6)


# ---- labels
def test_a_background_pixel_says_no_more_than_that_there_is_no_car() -> None:
    kind = scene()
    label = kind.within(torch.tensor([[0, 1], [1, 255]]), (0, 1))
    assert kind.leaves_open(label)
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    slope = gradient(kind.supervised_loss(logits, label[None]), logits)[0]
    share = logits.softmax(1)[0]
    # d/dz of -log(1 - q(car)), a third of the row: q(c) - q(c)/(1 - q(car)) for what is possible, q(car) for the car.
    possible = share[[0, 2], 0, 0]
    assert torch.allclose(3 * slope[[0, 2], 0, 0], possible - possible / possible.sum(), atol=1e-6)
    assert torch.allclose(3 * slope[1, 0, 0], share[1, 0, 0], atol=1e-6)
    assert torch.allclose(3 * slope[1, 0, 1], share[1, 0, 1] - 1, atol=1e-6)
    assert not slope[:, 1, 1].any()


def test_a_student_that_sees_the_other_teams_class_there_is_not_wrong() -> None:
    kind, label = scene(), scene().within(torch.zeros(2, 2).long(), (0, 1))
    person = torch.full((1, 3, 2, 2), -30.0).index_fill_(1, torch.tensor(2), 30.0)
    assert kind.supervised_loss(person, label[None]).item() == pytest.approx(0, abs=1e-6)
    assert kind.score(kind.statistics(person, label[None])) == 100
    car = person[:, [0, 2, 1]]
    assert kind.supervised_loss(car, label[None]).item() == pytest.approx(60, rel=0.02)
    assert math.isfinite(kind.supervised_loss(100 * car, label[None]).item())
    assert kind.score(kind.statistics(car, label[None])) == 0


def test_everybody_who_knows_everything_gives_the_loss_of_today_to_the_bit() -> None:
    plain = build_kind("segmentation", ["background", "car", "person"], dice=0.5)
    kind = build_kind("segmentation", ["background", "car", "person"], dice=0.5)
    kind.knows = {"a": (0, 1)}
    logits, labels = torch.randn(3, 3, 4, 4), torch.randint(0, 3, (3, 4, 4))
    labels[0, 0] = 255
    seen = kind.within(labels, (0, 1, 2))
    assert torch.equal(kind.supervised_loss(logits, seen), plain.supervised_loss(logits, labels))
    assert torch.equal(kind.statistics(logits, seen), plain.statistics(logits, labels))


def test_a_label_of_a_known_class_is_that_class() -> None:
    kind = build_kind("classification", ["none", "cat", "dog", "owl"], background="none")
    kind.knows = {"a": (0, 1, 2)}
    cat = kind.within(torch.tensor(1), (0, 1, 2))
    assert cat == 1
    assert not kind.leaves_open(cat)
    none = kind.within(torch.tensor(0), (0, 1, 2))
    logits = torch.randn(1, 4)
    expected = -torch.log(logits.softmax(1)[0, [0, 3]].sum())
    assert kind.supervised_loss(logits, none[None]).item() == pytest.approx(expected.item(), rel=1e-5)
    with pytest.raises(ValueError, match="shows 'owl', and `knows`"):
        kind.within(torch.tensor(3), (0, 1, 2))


def test_attributes_that_a_team_does_not_know_are_unknown_whatever_its_table_says() -> None:
    kind = build_kind("multilabel", ["a", "b", "c"])
    assert kind.within(torch.tensor([1, 0, 0]), (0, 1)).tolist() == [1, 0, -1]


def test_an_object_that_a_team_does_not_know_may_be_found() -> None:
    kind = build_kind("heatmap", ["car", "person"], max_objects=2)
    kind.knows = {"a": (0,)}
    label = torch.full((2, 5), -1.0)
    label[0] = torch.tensor([0, 0.5, 0.5, 0.4, 0.4])
    some, all_of_it = kind.within(label, (0,)), kind.within(label, (0, 1))
    assert some.shape == all_of_it.shape == kind.filler((8, 8)).shape
    assert kind.leaves_open(some)
    assert not kind.leaves_open(all_of_it)
    logits = torch.randn(1, 6, 8, 8, requires_grad=True)
    slope = gradient(kind.supervised_loss(logits, some[None]), logits)
    assert slope[:, 0].any()
    assert not slope[:, 1].any()
    assert gradient(kind.supervised_loss(logits, all_of_it[None]), logits)[:, 1].any()
    plain = build_kind("heatmap", ["car", "person"], max_objects=2)
    assert torch.equal(
        kind.supervised_loss(logits, all_of_it[None]), plain.supervised_loss(logits, label[None])
    )
    # A person that is found there is no mistake.
    found = torch.full((1, 6, 8, 8), -9.0)
    found[0, 1, 4, 4], found[0, 0, 4, 4], found[0, 2:4, 4, 4] = 9.0, 5.0, 3.2
    found[0, 4:] = 0.0
    assert (
        kind.score(kind.statistics(found, some[None]))
        > plain.score(plain.statistics(found, label[None])) - 1e-9
    )


def test_labels_are_read_for_the_classes_of_a_teacher() -> None:
    kind = scene()
    labels = torch.stack([kind.within(torch.tensor([[0, 1]]), (0, 1)), torch.tensor([[2, 0]])])
    cars, said = class_view(kind, (0, 1)).labels(labels)
    assert cars.tolist() == [[[0, 1]], [[0, 0]]]
    people, _ = class_view(kind, (0, 2)).labels(labels)
    # That there is no car says nothing of people; a car is none.
    assert people.tolist() == [[[255, 0]], [[1, 0]]]
    assert said.tolist() == [True, True]
    words = build_kind("classification", ["cat", "dog", "owl"])
    labels, said = class_view(words, (1, 2)).labels(torch.tensor([0, 1, 2]))
    assert labels[1:].tolist() == [0, 1]
    assert said.tolist() == [False, True, True]


# ---- ensembles
def test_softened_answers_are_averaged() -> None:
    kind = build_kind("classification", ["a", "b", "c"])
    answers, shares = [torch.randn(4, 3), torch.randn(4, 3)], torch.tensor([[0.3] * 4, [0.7] * 4])
    average = kind.average(answers, shares, TEMPERATURE)
    expected = 0.3 * (answers[0] / TEMPERATURE).softmax(1) + 0.7 * (answers[1] / TEMPERATURE).softmax(1)
    assert torch.allclose((average / TEMPERATURE).softmax(1), expected, atol=1e-6)
    loss = kind.soft_target_loss(average, average, TEMPERATURE)
    assert torch.allclose(loss, torch.zeros(4), atol=1e-6)


def test_attributes_are_averaged_as_probabilities_and_numbers_as_they_are() -> None:
    answers, shares = [torch.randn(4, 3), torch.randn(4, 3)], torch.full((2, 4), 0.5)
    average = build_kind("multilabel", ["a", "b", "c"]).average(answers, shares, TEMPERATURE)
    expected = torch.stack([(one / TEMPERATURE).sigmoid() for one in answers]).mean(0)
    assert torch.allclose((average / TEMPERATURE).sigmoid(), expected, atol=1e-6)
    numbers = build_kind("regression", ["x", "y", "z"]).average(answers, shares, TEMPERATURE)
    assert torch.allclose(numbers, torch.stack(answers).mean(0))


def test_maps_of_different_sizes_are_averaged_at_the_larger_one() -> None:
    shares = torch.full((2, 1), 0.5)
    pixels = build_kind("segmentation", ["a", "b"])
    assert pixels.average([torch.randn(1, 2, 4, 4), torch.randn(1, 2, 8, 8)], shares, 2.0).shape == (
        1,
        2,
        8,
        8,
    )
    boxes = build_kind("heatmap", ["a", "b"])
    small, large = torch.full((1, 6, 4, 4), -9.0), torch.full((1, 6, 8, 8), -9.0)
    small[0, 0, 1, 1], small[0, 2:4] = 9.0, 2.0
    together = boxes.average([small, large], shares, 1.0)
    place = together[0, 0].flatten().argmax()
    # Twice the cells along each side, and the size of the network that sees the object.
    assert together[0, 2].flatten()[place] == 4


def test_the_surest_is_the_one_of_lowest_entropy() -> None:
    kind = build_kind("classification", ["a", "b"])
    sureness = kind.sureness(torch.tensor([[0.0, 0.1], [5.0, 0.0]]))
    assert sureness is not None
    assert sureness[1] > sureness[0]
    looks = build_kind("multilabel", ["a", "b"]).sureness(torch.tensor([[0.1, -0.1], [4.0, -4.0]]))
    assert looks is not None
    assert looks[1] > looks[0]
    assert build_kind("heatmap", ["a"]).sureness(torch.zeros(1, 5, 2, 2)) is None


def test_a_background_that_is_no_class_is_refused() -> None:
    with pytest.raises(UserError, match=r"no class 'non'.*'none'"):
        build_kind("classification", ["none", "cat"], background="non")
