"""Boxes and points: labels on disk, Gaussians, losses, peaks, scores."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from distill_mtl.errors import UserError
from distill_mtl.geometry.views import View
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.heat import corner_radius, draw_gaussians
from distill_mtl.tasks.objects import match_objects, pairwise_iou
from distill_mtl.teachers.label_map import match_classes

CLASSES = ("cat", "dog", "bird")
FORMS = ["boxes", "points"]


def kind_of(form: str = "boxes", **options: Any) -> TaskKind:
    return build_kind("heatmap", CLASSES, form=form, max_objects=6, **options)


def label_of(objects: Sequence[Sequence[float]], most: int = 6) -> Tensor:
    """[most, 5] of (class, x, y, width, height), as shares of the view."""
    label = torch.zeros(most, 5)
    label[:, 0] = -1
    label[: len(objects)] = torch.tensor(objects, dtype=torch.float32).view(-1, 5)
    return label


def example(form: str, rows: int = 6, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's maps, of two sizes, and labels; one row has nothing in it."""
    generator = torch.Generator().manual_seed(seed)
    outputs = 7 if form == "boxes" else 5
    student, teacher = (torch.randn(rows, outputs, side, side, generator=generator) - 1 for side in (8, 16))
    labels = torch.rand(rows, 6, 5, generator=generator)
    labels[..., 3:] = labels[..., 3:] * 0.4 + 0.05 if form == "boxes" else 0
    labels[..., 0] = torch.randint(-1, 3, (rows, 6), generator=generator)
    labels[0, :, 0] = -1
    return student, teacher, labels


def perfect(kind: TaskKind, labels: Tensor, height: int, width: int) -> Tensor:
    """The maps of a network that knows the labels: sure of every centre, and of nothing else."""
    logits = torch.full((len(labels), kind.outputs, height, width), -12.0)
    logits[:, len(kind.classes) :] = 0
    for row, label in enumerate(labels):
        for number, x, y, w, h in label[label[:, 0] >= 0].tolist():
            column, line = min(int(x * width), width - 1), min(int(y * height), height - 1)
            logits[row, int(number), line, column] = 12
            values = [x * width - column, y * height - line]
            values = [w * width, h * height, *values] if kind.outputs - len(kind.classes) == 4 else values
            logits[row, len(kind.classes) :, line, column] = torch.tensor(values)
    return logits


# ---- the label on disk ----------------------------------------------------------------------------
def test_boxes_and_points_are_read_in_pixels() -> None:
    payload = b'[{"class": "dog", "box": [10, 20, 30, 8]}, {"class": 2, "box": [0.5, 0, 2, 1], "id": 7}]'
    label = kind_of().read_label(payload)
    assert label.shape == (6, 5)
    assert label[:2].tolist() == [[1, 25, 24, 30, 8], [2, 1.5, 0.5, 2, 1]]
    assert (label[2:, 0] == -1).all()
    points = kind_of("points").read_label(b'[{"class": "cat", "point": [3.5, 4]}]')
    assert points[0].tolist() == [0, 3.5, 4, 0, 0]


def test_an_empty_list_is_a_label_too() -> None:
    kind = kind_of()
    label = kind.read_label(b"[]")
    assert kind.has_label(label)
    assert torch.equal(label, kind.filler((8, 8)))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\x89PNG\r\n\x1a\n", "not JSON"),
        (b"", "not JSON"),
        (b'{"class": 0}', "not a list of objects"),
        (b"[1, 0, 1]", "object 1 .*no `class`"),
        (b'[{"box": [0, 0, 2, 2]}]', "object 1 .*no `class`"),
        (
            b'[{"class": "cow", "box": [0, 0, 2, 2]}]',
            'object 1 .*"cow".*0 to 2',
        ),
        (b'[{"class": 3, "box": [0, 0, 2, 2]}]', "object 1 .*class 3"),
        (b'[{"class": true, "box": [0, 0, 2, 2]}]', "object 1 .*class true"),
        (
            b'[{"class": 0, "point": [2, 2]}]',
            r"object 1 .*`box: \[left, top, width, height\].*`form: points`",
        ),
        (b'[{"class": 0, "box": [0, 0, 2]}]', "object 1 .*`box"),
        (b'[{"class": 0, "box": [0, NaN, 2, 2]}]', "object 1 .*`box"),
        (b'[{"class": 0, "box": [4, 4, 0, 2]}]', "without area"),
        (b'[{"class": 0, "box": [0.4, 0.3, 0.1, 0.2]}]', "object 1 .*0.4.*shares"),
        (json.dumps([{"class": 0, "box": [0, 0, 2, 2]}] * 7).encode(), "7 objects.*max_objects is 6"),
    ],
)
def test_a_label_that_makes_no_sense_is_refused_in_words(payload: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind_of().read_label(payload)


def test_a_label_follows_the_view() -> None:
    kind = kind_of()
    label = kind.read_label(b'[{"class": 0, "box": [0, 0, 4, 4]}, {"class": 1, "box": [20, 10, 10, 20]}]')
    seen = kind.transform_label(label, View(10, 10, 20, 40), (30, 50), (64, 64))
    assert seen[0].tolist() == pytest.approx([1, 15 / 40, 10 / 20, 10 / 40, 20 / 20])
    assert (seen[1:, 0] == -1).all(), "what is out of sight is gone, and no slot between stays empty"
    flipped = kind.transform_label(label, View(10, 10, 20, 40, flip=True), (30, 50), (64, 64))
    assert flipped[0].tolist() == pytest.approx([1, 25 / 40, 10 / 20, 10 / 40, 20 / 20])


def test_mirrored_classes_swap_in_a_mirror_alone() -> None:
    kind = kind_of("points", mirrored=[["dog", "cat"]])
    label = kind.read_label(json.dumps([{"class": name, "point": [2, 2]} for name in CLASSES]).encode())
    assert kind.transform_label(label, View(0, 0, 8, 8), (8, 8), (8, 8))[:, 0].tolist() == [
        0,
        1,
        2,
        -1,
        -1,
        -1,
    ]
    seen = kind.transform_label(label, View(0, 0, 8, 8, flip=True), (8, 8), (8, 8))
    assert seen[:, 0].tolist() == [1, 0, 2, -1, -1, -1]
    assert seen[:3, 1].tolist() == [0.75] * 3


# ---- options --------------------------------------------------------------------------------------
def test_wrong_options_are_refused_in_words() -> None:
    with pytest.raises(UserError, match="form 'box'.*'boxes'"):
        build_kind("heatmap", CLASSES, form="box")
    with pytest.raises(UserError, match=r"form '\['boxes'\]'.*heatmap"):
        build_kind("heatmap", CLASSES, form=["boxes"])
    with pytest.raises(UserError, match="top.*found 0"):
        build_kind("heatmap", CLASSES, top=0)
    with pytest.raises(UserError, match="'map50'.*heatmap.*pck"):
        build_kind("heatmap", CLASSES, "map50", form="points")
    with pytest.raises(UserError, match="mirrored.*'dgo'.*'dog'"):
        build_kind("heatmap", CLASSES, mirrored=[["cat", "dgo"]])


@pytest.mark.parametrize("form", FORMS)
def test_a_description_builds_the_same_kind_again(form: str) -> None:
    built = kind_of(form, mirrored=[["cat", "dog"]], top=5, head={"width": 8})
    again = build_kind(**json.loads(json.dumps(built.describe())))
    assert type(again) is type(built)
    assert vars(again) == vars(built)
    assert built.metric == ("map50" if form == "boxes" else "pck")


# ---- the network ----------------------------------------------------------------------------------
@pytest.mark.parametrize("form", FORMS)
def test_a_head_gives_all_outputs_and_finds_nothing_at_first(form: str) -> None:
    kind = kind_of(form, head={"width": 8})
    shapes = {"a": FeatureShape(6, (16, 16), pyramid=True), "b": FeatureShape(9, (8, 8), pyramid=True)}
    features = {name: torch.randn(4, shape.channels, *(shape.size or ())) for name, shape in shapes.items()}
    logits = kind.head(shapes)(features)
    assert logits.shape == (4, kind.outputs, 16, 16)
    assert kind.classes_of(kind.outputs) == 3
    assert 0.05 < logits[:, :3].sigmoid().mean() < 0.2


@pytest.mark.parametrize("form", FORMS)
def test_probabilities_are_those_of_the_heat_alone(form: str) -> None:
    kind, logits = kind_of(form), example(form)[0]
    answer = torch.cat([logits[:, :3].sigmoid(), logits[:, 3:]], 1)
    assert kind.are_probabilities(answer)
    assert not kind.are_probabilities(logits)
    torch.testing.assert_close(kind.logits_of(answer), logits)
    sure = torch.cat([torch.ones_like(logits[:, :3]), logits[:, 3:]], 1)
    assert torch.isfinite(kind.logits_of(sure)).all()


def test_a_teacher_with_its_classes_in_another_order_keeps_sizes_and_offsets() -> None:
    kind, (logits, _, labels) = kind_of(), example("boxes")
    theirs = logits[:, [2, 0, 1, 3, 4, 5, 6]]
    labels_of = match_classes(("bird", "cat", "dog"), 3, CLASSES, "a teacher", rest=4)
    assert torch.equal(labels_of(theirs), logits)
    fewer = match_classes(("bird", "cat", "dog"), 3, ("dog", "bird"), "a teacher", rest=4)
    assert torch.equal(fewer(theirs), logits[:, [1, 2, 3, 4, 5, 6]])
    assert torch.isfinite(kind.supervised_loss(labels_of(theirs), labels)).all()


# ---- losses ---------------------------------------------------------------------------------------
def test_the_radius_keeps_an_overlap_of_seven_tenths() -> None:
    """Shifted, shrunk or grown by the radius a box overlaps the true one by 0.7, in the worst case exactly."""
    width, height = torch.tensor([3.0, 10, 40, 7]), torch.tensor([3.0, 4, 40, 60])
    radius = corner_radius(width, height)
    for index in range(4):
        w, h, r = float(width[index]), float(height[index]), float(radius[index])
        common = (w - r) * (h - r)
        worst = min(
            common / (2 * w * h - common),
            (w - 2 * r) * (h - 2 * r) / (w * h),
            w * h / ((w + 2 * r) * (h + 2 * r)),
        )
        assert worst == pytest.approx(0.7, abs=1e-4)


def test_gaussians_are_one_at_centres_and_the_larger_one_counts() -> None:
    place, line, column = torch.tensor([0, 0, 1]), torch.tensor([2, 2, 0]), torch.tensor([1, 3, 4])
    heat = draw_gaussians(place, line, column, torch.tensor([1.0, 1, 2]), 2, (5, 6))
    assert heat.shape == (2, 5, 6)
    assert (heat == 1).nonzero().tolist() == [[0, 2, 1], [0, 2, 3], [1, 0, 4]]
    assert float(heat[0, 2, 2]) == pytest.approx(math.exp(-1 / (2 * 0.5**2)))
    assert float(heat[1, 1, 4]) == pytest.approx(math.exp(-1 / (2 * (5 / 6) ** 2)))


def test_the_supervised_loss_by_hand() -> None:
    """One box on a map of 2 x 2: focal loss of four cells, 0.1 of the sizes' error, the offsets' error."""
    kind = build_kind("heatmap", ("cat",), max_objects=2)
    logits = torch.zeros(1, 5, 2, 2)
    logits[0, 1:, 1, 0] = torch.tensor([0.5, 2.0, 0.25, 0.0])
    labels = label_of([(0, 0.25, 0.875, 0.5, 0.25)], most=2)[None]  # in the lower left cell: 1 x 0.5 cells
    near, across = math.exp(-2), math.exp(-4)  # 1 and sqrt 2 cells away at a standard deviation of a half
    half = 0.5**2 * math.log(2)
    heat = half * (1 + 2 * (1 - near) ** 4 + (1 - across) ** 4)
    sizes = 0.1 * (abs(0.5 - 1) + abs(2 - 0.5))
    offsets = abs(0.25 - 0.5) + abs(0 - 0.75)
    assert kind.supervised_loss(logits, labels).item() == pytest.approx(heat + sizes + offsets, rel=1e-5)


def test_the_supervised_loss_on_a_map_laid_on_its_side_is_the_same() -> None:
    kind = build_kind("heatmap", ("cat", "dog"), max_objects=2)
    logits = torch.randn(1, 6, 3, 7)
    labels = label_of([(0, 0.2, 0.9, 0.3, 0.4), (1, 1.0, 0.5, 0.5, 0.1)], most=2)[None]
    turned = logits.transpose(2, 3)[:, [0, 1, 3, 2, 5, 4]]
    loss = kind.supervised_loss(turned, labels[..., [0, 2, 1, 4, 3]])
    torch.testing.assert_close(loss, kind.supervised_loss(logits, labels))


@pytest.mark.parametrize("form", FORMS)
def test_the_true_maps_cost_next_to_nothing(form: str) -> None:
    kind, (logits, _, labels) = kind_of(form), example(form)
    labels = labels[:, :1]
    good = kind.supervised_loss(perfect(kind, labels, 8, 8), labels)
    assert (good < 0.01).all()
    assert (kind.supervised_loss(logits, labels) > 0.5).all()


@pytest.mark.parametrize("form", FORMS)
def test_losses_do_not_depend_on_how_rows_are_split(form: str) -> None:
    kind, (logits, teacher, labels) = kind_of(form), example(form)
    for whole, part in (
        (kind.supervised_loss(logits, labels), lambda rows: kind.supervised_loss(logits[rows], labels[rows])),
        (
            kind.soft_target_loss(logits, teacher, 3.0),
            lambda rows: kind.soft_target_loss(logits[rows], teacher[rows], 3.0),
        ),
    ):
        assert whole.shape == (6,)
        torch.testing.assert_close(whole, torch.cat([part([0]), part([1, 2, 3]), part([4, 5])]))


@pytest.mark.parametrize("form", FORMS)
def test_empty_slots_change_nothing_and_an_empty_row_still_learns_that_there_is_nothing(form: str) -> None:
    kind, (logits, _, labels) = kind_of(form), example(form)
    other = labels.clone()
    other[labels[..., 0] < 0] = torch.tensor([-1.0, 0.3, 0.9, 0.5, 0.5])
    assert torch.equal(kind.supervised_loss(logits, labels), kind.supervised_loss(logits, other))
    logits.requires_grad_()
    loss = kind.supervised_loss(logits, labels)[0]
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss > 0
    assert (gradient[0, :3] > 0).all()
    assert not gradient[0, 3:].any()
    assert not gradient[1:].any()


@pytest.mark.parametrize("form", FORMS)
def test_soft_targets_cost_nothing_where_student_and_teacher_agree(form: str) -> None:
    kind, (logits, teacher, _) = kind_of(form), example(form)
    assert torch.equal(kind.soft_target_loss(logits, logits.clone(), 4.0), torch.zeros(6))
    nearly = kind.soft_target_loss(logits, logits + 1e-5 * torch.randn_like(logits), 1.0)
    assert (nearly >= 0).all()
    assert (kind.soft_target_loss(logits, teacher, 4.0) > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_gradient_reaches_the_student_alone_and_everything_that_it_says(form: str) -> None:
    kind, (logits, teacher, _) = kind_of(form), example(form)
    for maps in (teacher, torch.randn_like(logits)):
        student = logits.clone().requires_grad_()
        other = maps.clone().requires_grad_()
        kind.soft_target_loss(student, other, 4.0).sum().backward()
        assert other.grad is None
        assert student.grad is not None
        reached = [bool(channel.any()) for channel in student.grad.unbind(1)]
        offsets = maps.shape == logits.shape  # those of another map mean nothing
        assert reached == [True] * (kind.outputs - 2) + [offsets] * 2


def test_a_missed_peak_and_an_invented_one_cost_and_the_empty_background_does_not() -> None:
    kind = kind_of()
    labels = label_of([(1, 0.3, 0.4, 0.2, 0.2)])[None]
    teacher = perfect(kind, labels, 32, 32) + 0
    teacher[:, :3] = teacher[:, :3].clamp(-6, 3)
    empty = teacher.clone()
    empty[:, 1] = -6
    missed = kind.soft_target_loss(empty, teacher, 1.0)
    invented = kind.soft_target_loss(teacher, empty, 1.0)
    vague = teacher.clone()
    vague[:, :3] -= 1.0 * (teacher[:, :3] < 0)  # the background at -7 in place of -6
    background = kind.soft_target_loss(vague, teacher, 1.0)
    assert missed > 3
    assert invented > 2.5
    assert background < 0.01


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    logits, sizes = (0.1 * example("boxes")[0]).requires_grad_(), []
    teacher = 0.1 * example("boxes", seed=1)[0]
    for temperature in (8.0, 80.0):
        loss = kind_of().soft_target_loss(logits, teacher, temperature).mean()
        (gradient,) = torch.autograd.grad(loss, logits)
        sizes.append(gradient[:, :3].norm())
    assert sizes[0] == pytest.approx(float(sizes[1]), rel=0.02)
    assert sizes[0] > 0


@pytest.mark.parametrize(("theirs", "mine"), [((16, 32), (8, 16)), ((8, 16), (16, 32)), ((16, 8), (8, 16))])
def test_a_teachers_map_of_another_size_says_the_same_about_sizes_and_peaks(
    theirs: tuple[int, int], mine: tuple[int, int]
) -> None:
    """Sizes are counted in cells, so they change with the cells; a peak must not drown in a mean."""
    kind = kind_of()
    labels = label_of([(1, 0.3, 0.4, 0.25, 0.5)])[None]
    teacher, student = perfect(kind, labels, *theirs), perfect(kind, labels, *mine)
    # Let the sizes stand in the whole map, as networks have them about every peak.
    for maps, (height, width) in ((teacher, theirs), (student, mine)):
        maps[:, 3], maps[:, 4] = 0.25 * width, 0.5 * height
    found = kind.soft_target_loss(student, teacher, 1.0)
    wrong = student.clone()
    wrong[:, 3:5] = teacher[0, 3:5, 0, 0][:, None, None]
    if theirs[0] != mine[0] and theirs[1] != mine[1]:
        assert kind.soft_target_loss(wrong, teacher, 1.0) > found + 0.05
    if theirs[0] >= mine[0] and theirs[1] >= mine[1]:
        assert found < 1e-3


def test_half_precision_is_computed_in_float32() -> None:
    for form in FORMS:
        kind, (logits, teacher, labels) = kind_of(form), example(form)
        half, full = logits.bfloat16(), logits.bfloat16().float()
        loss = kind.supervised_loss(half, labels)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, kind.supervised_loss(full, labels))
        soft = kind.soft_target_loss(half, teacher.bfloat16(), 4.0)
        assert torch.equal(soft, kind.soft_target_loss(full, teacher.bfloat16().float(), 4.0))
        assert torch.equal(kind.statistics(half, labels), kind.statistics(full, labels))


# ---- what a user gets -----------------------------------------------------------------------------
def test_planted_boxes_are_recovered_from_perfect_maps() -> None:
    kind = kind_of(top=4)
    planted = [(2, 0.26, 0.4, 0.2, 0.5), (0, 0.75, 0.85, 0.3, 0.1), (0, 0.5, 0.1, 0.1, 0.2)]
    answer = kind.decode(perfect(kind, label_of(planted)[None], 12, 20), (60, 100))
    assert (answer["scores"][0] > 0.99).tolist() == [True] * 3 + [False]
    got = sorted(zip(answer["label"][0, :3].tolist(), answer["boxes"][0, :3].tolist(), strict=True))
    for (number, box), (wanted, x, y, w, h) in zip(
        got, sorted(planted, key=lambda o: (o[0], o[1])), strict=True
    ):
        assert number == wanted
        expected = [(x - w / 2) * 100, (y - h / 2) * 60, (x + w / 2) * 100, (y + h / 2) * 60]
        assert box == pytest.approx(expected, abs=1e-3)


def test_planted_points_are_recovered_one_per_class() -> None:
    kind = kind_of("points")
    answer = kind.decode(
        perfect(kind, label_of([(2, 0.26, 0.4, 0, 0), (0, 0.75, 0.85, 0, 0)])[None], 12, 20), (60, 100)
    )
    assert answer["points"].shape == (1, 3, 2)
    assert answer["points"][0, 0].tolist() == pytest.approx([75, 51], abs=1e-3)
    assert answer["points"][0, 2].tolist() == pytest.approx([26, 24], abs=1e-3)
    assert (answer["scores"][0] > 0.9).tolist() == [True, False, True]
    assert answer["label"].tolist() == [[0, 1, 2]]


def test_a_map_with_fewer_cells_than_boxes_is_no_problem() -> None:
    kind = kind_of(top=100)
    logits, labels = torch.randn(2, 7, 2, 2), torch.stack([label_of([(0, 0.5, 0.5, 1, 1)])] * 2)
    assert kind.decode(logits, (8, 8))["boxes"].shape == (2, 12, 4)
    statistics = kind.statistics(logits, labels)
    assert statistics.shape == (2, 303)
    assert 0 <= kind.score(statistics) <= 100


def test_labels_and_answers_can_be_looked_at() -> None:
    image = torch.zeros(3, 20, 20, dtype=torch.uint8)
    kind = kind_of()
    label = label_of([(1, 0.5, 0.5, 0.5, 0.5), (1, 0.2, 0.2, 0.1, 0.1)])
    shown = kind.show_label(label, image)
    assert shown.caption == "2 dog"
    assert shown.picture.shape == (3, 20, 20)
    assert shown.picture[:, 5, 10].any()
    assert not shown.picture[:, 10, 10].any()
    assert not image.any()
    answer = kind.show_answer(perfect(kind, label[None], 10, 10)[0], image)
    assert torch.equal(answer.picture, shown.picture)
    assert kind.show_label(label_of([]), image).caption == "nothing"
    cross = kind_of("points").show_label(label_of([(0, 0.5, 0.5, 0, 0)]), image)
    assert cross.picture[:, 10, 10].any()


# ---- scores ---------------------------------------------------------------------------------------
def detections(rows: int, seed: int, top: int = 12) -> tuple[Tensor, Tensor]:
    """Maps in which some labelled boxes are found about right, some twice, some not, and some are invented."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.full((rows, 7, 16, 16), -20.0)
    logits[:, 3:] = 0
    labels = torch.stack([label_of([])] * rows)
    for row in range(rows):
        for slot in range(int(torch.randint(0, 5, (), generator=generator))):
            number = int(torch.randint(0, 3 if seed % 2 else 2, (), generator=generator))
            x, y = (0.2 + 0.6 * torch.rand(2, generator=generator)).tolist()
            w, h = (0.15 + 0.25 * torch.rand(2, generator=generator)).tolist()
            labels[row, slot] = torch.tensor([number, x, y, w, h])
            for _ in range(int(torch.randint(0, 3, (), generator=generator))):
                moved = torch.randn(4, generator=generator) * 0.04
                cx, cy = x + float(moved[0]), y + float(moved[1])
                column, line = int(cx * 16), int(cy * 16)
                logits[row, number, line, column] = torch.randn((), generator=generator) * 2
                sides = [(w + float(moved[2])) * 16, (h + float(moved[3])) * 16]
                logits[row, 3:, line, column] = torch.tensor([*sides, cx * 16 - column, cy * 16 - line])
        line, column = torch.randint(0, 16, (2,), generator=generator).tolist()
        logits[row, int(torch.randint(0, 3, (), generator=generator)), line, column] = torch.randn(
            (), generator=generator
        )
        logits[row, 3:5, line, column] = 3
    return logits, labels


@pytest.mark.parametrize("seed", range(6))
def test_map50_is_that_of_torchmetrics(seed: int) -> None:
    kind = kind_of(top=12)
    logits, labels = detections(24, seed)
    metric = MeanAveragePrecision(
        box_format="xyxy", iou_thresholds=[0.5], max_detection_thresholds=[1, 10, 12]
    )
    answer = kind.decode(logits, (640, 640))
    predicted, wanted = [], []
    for row, label in enumerate(labels):
        found = answer["scores"][row] > 0
        predicted.append(
            {
                "boxes": answer["boxes"][row][found],
                "scores": answer["scores"][row][found],
                "labels": answer["label"][row][found],
            }
        )
        known = label[label[:, 0] >= 0]
        sides = torch.cat([known[:, 1:3] - known[:, 3:] / 2, known[:, 1:3] + known[:, 3:] / 2], 1)
        wanted.append({"boxes": sides * 640, "labels": known[:, 0].long()})
    metric.update(predicted, wanted)
    theirs = 100 * metric.compute()["map_50"].item()
    ours = kind.score(kind.statistics(logits, labels)).item()
    assert 5 < theirs < 95
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_map50_by_hand() -> None:
    """Two labelled cats; found in the order right, wrong: precision 1 up to a recall of a half, 51 of 101 recalls."""
    kind = build_kind("heatmap", ("cat",), max_objects=2, top=2)
    labels = label_of([(0, 0.25, 0.25, 0.4, 0.4), (0, 0.8, 0.8, 0.2, 0.2)], most=2)[None]
    logits = perfect(kind, labels, 8, 8)
    logits[0, 1:3, 6, 6] = 7  # far too large
    logits[0, 0, 6, 6] = 5
    assert kind.score(kind.statistics(logits, labels)).item() == pytest.approx(100 * 51 / 101)
    logits[0, 0, 6, 6] = 20  # the wrong one first: precision 0, then a half
    assert kind.score(kind.statistics(logits, labels)).item() == pytest.approx(50 * 51 / 101)


def test_a_label_is_found_once_and_by_its_own_class() -> None:
    labels = label_of([(0, 0.5, 0.5, 0.4, 0.4), (1, 0.2, 0.2, 0.2, 0.2)], most=3)[None]
    found = torch.tensor([[[0, 0.5, 0.5, 0.4, 0.4], [0, 0.51, 0.5, 0.4, 0.4], [0, 0.2, 0.2, 0.2, 0.2]]])
    assert match_objects(found, labels).tolist() == [[True, False, False]]
    assert pairwise_iou(found, labels)[0, :, 0].tolist() == pytest.approx([1, 0.39 / 0.41, 0])


def test_pck_by_hand() -> None:
    """On a view of 20 x 10 cells two are near: a tenth of the larger side, whatever the aspect."""
    kind = kind_of("points")
    truth = [(0, 0.525, 0.55, 0, 0), (1, 0.525, 0.55, 0, 0), (2, 0.725, 0.55, 0, 0)]
    moved = [(0, 0.525 + 0.09, 0.55, 0, 0), (1, 0.525, 0.55 + 0.19, 0, 0), (2, 0.725, 0.55 + 0.21, 0, 0)]
    logits = perfect(kind, label_of(moved)[None], 10, 20)
    statistics = kind.statistics(logits, label_of(truth)[None])
    assert statistics.tolist() == [[2, 3]]
    assert kind.score(statistics).item() == pytest.approx(200 / 3)
    boxes = kind_of(metric="pck")
    labels = label_of([(0, 0.3, 0.3, 0.2, 0.2), (0, 0.8, 0.8, 0.2, 0.2)])[None]
    assert boxes.score(boxes.statistics(perfect(boxes, labels, 10, 10), labels)).item() == 50


@pytest.mark.parametrize(("form", "metric"), [("boxes", "map50"), ("boxes", "pck"), ("points", "pck")])
def test_weights_say_how_often_each_row_counts(form: str, metric: str) -> None:
    kind = kind_of(form, metric=metric)
    logits, _, labels = example(form)
    statistics = kind.statistics(logits, labels)
    parts = [kind.statistics(logits[rows], labels[rows]) for rows in ([0, 1], [2], [3, 4, 5])]
    assert torch.equal(torch.cat(parts), statistics)
    weights = torch.tensor([[1.0, 1, 1, 1, 1, 1], [2, 0, 1, 0, 0, 3]], dtype=torch.float64)
    drawn = torch.stack([kind.score(statistics), kind.score(statistics[[0, 0, 2, 5, 5, 5]])])
    torch.testing.assert_close(kind.score(statistics, weights), drawn)
    assert statistics.dtype == torch.float64
    good = kind.statistics(perfect(kind, labels, 64, 64), labels)
    assert kind.score(good) > 80 if metric == "map50" else kind.score(good) >= kind.score(statistics)
    assert kind.score(statistics[:1]) == 0, "a row without objects alone"


@pytest.mark.parametrize("form", FORMS)
def test_agreement_is_one_with_itself_and_less_with_another(form: str) -> None:
    kind, (logits, teacher, _) = kind_of(form), example(form)
    assert torch.equal(kind.agreement(logits, logits), torch.ones(6, dtype=torch.float64))
    other = kind.agreement(logits, teacher)
    assert other.min() >= 0
    assert other.mean() < 1
    assert torch.equal(other, kind.agreement(teacher, logits))
    nothing = torch.full_like(logits, -9)
    assert torch.equal(kind.agreement(nothing, nothing), torch.ones(6, dtype=torch.float64))
    assert (kind.agreement(nothing, logits) < 1).all()
    finer = perfect(kind, label_of([(1, 0.3, 0.4, 0.3, 0.5)])[None], 32, 32)
    coarser = perfect(kind, label_of([(1, 0.3, 0.4, 0.3, 0.5)])[None], 16, 16)
    # A point task's other classes have a best place too, but are not sure of it.
    assert kind.agreement(finer, coarser).item() == 1


def test_the_best_constant_points_score_about_what_is_said() -> None:
    """Noses in the middle, the rest anywhere: an answer in the middle finds the noses alone."""
    kind = build_kind("heatmap", ("nose", "ear"), form="points", max_objects=2)
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(500, 2, 5)
    labels[:, 1, 0] = 1
    labels[:, 0, 1:3] = 0.475 + 0.05 * torch.rand(500, 2, generator=generator)
    labels[:, 1, 1:3] = torch.rand(500, 2, generator=generator)
    said = kind.constant_score(torch.stack([kind.label_counts(part) for part in labels.split(100)]).sum(0))
    middle = perfect(kind, label_of([(0, 0.5, 0.5, 0, 0), (1, 0.5, 0.5, 0, 0)], most=2)[None], 20, 20)
    reached = float(kind.score(kind.statistics(middle.expand(500, -1, -1, -1), labels)))
    assert reached == pytest.approx(50 + 50 * math.pi * 0.01, abs=2)
    assert reached - 1 < said < reached + 3
    assert kind_of().constant_score(kind_of().label_counts(example("boxes")[2])) == 0
