"""What every kind of task must keep, whatever it is."""

import pytest
import torch
from kind_examples import CLASSES, EXAMPLES, Example
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import KINDS, TaskKind, build_kind


def example(kind: TaskKind, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits, teacher logits and labels of six rows."""
    return EXAMPLES[kind.name].draw(kind, seed)


@pytest.fixture(params=list(EXAMPLES))
def kind(request: pytest.FixtureRequest) -> TaskKind:
    return EXAMPLES[request.param].kind(request.param)


@pytest.fixture
def of_kind(kind: TaskKind) -> Example:
    return EXAMPLES[kind.name]


def test_every_kind_is_known_under_its_own_name_and_has_an_example() -> None:
    # Maps of heat, sizes and offsets are tested for the same in test_heatmap.py.
    assert KINDS.names() == sorted([*EXAMPLES, "heatmap"])
    assert all(KINDS[name].name == name for name in KINDS.names())


def test_losses_do_not_depend_on_how_rows_are_split(kind: TaskKind) -> None:
    logits, teacher, labels = example(kind)
    whole = kind.supervised_loss(logits, labels), kind.soft_target_loss(logits, teacher, 3.0)
    parts = [
        torch.cat([kind.supervised_loss(logits[rows], labels[rows]) for rows in ([0], [1, 2], [3, 4, 5])]),
        torch.cat(
            [kind.soft_target_loss(logits[rows], teacher[rows], 3.0) for rows in ([0, 1, 2, 3], [4, 5])]
        ),
    ]
    for together, split in zip(whole, parts, strict=True):
        assert together.shape == (6,)
        torch.testing.assert_close(together, split)


def test_statistics_add_up_over_any_split(kind: TaskKind) -> None:
    logits, _, labels = example(kind)
    parts = [kind.statistics(logits[rows], labels[rows]) for rows in ([0, 1], [2], [3, 4, 5])]
    assert torch.equal(torch.cat(parts), kind.statistics(logits, labels))
    assert parts[0].dtype == torch.float64


def test_weights_say_how_often_each_row_counts(kind: TaskKind) -> None:
    logits, _, labels = example(kind)
    per_row = kind.statistics(logits, labels)
    weights = torch.tensor([[1.0, 1, 1, 1, 1, 1], [2, 0, 1, 0, 0, 3]], dtype=torch.float64)
    drawn = per_row[[0, 0, 2, 5, 5, 5]]
    want = torch.stack([kind.score(per_row), kind.score(drawn)])
    torch.testing.assert_close(kind.score(per_row, weights), want)


def test_groups_of_rows_may_be_summed_where_the_kind_says_so(kind: TaskKind) -> None:
    logits, _, labels = example(kind)
    per_row = kind.statistics(logits, labels)
    summed = torch.stack([per_row[:2].sum(0), per_row[2:].sum(0)])
    if not kind.additive:
        pytest.skip("its scores need every row")
    torch.testing.assert_close(kind.score(summed), kind.score(per_row))


def test_soft_targets_cost_nothing_where_student_and_teacher_agree(kind: TaskKind) -> None:
    logits, _, _ = example(kind)
    assert torch.equal(kind.soft_target_loss(logits, logits.clone(), 4.0), torch.zeros(6))
    if kind.exclusive:  # a softmax does not see a constant added to all logits of a decision
        assert kind.soft_target_loss(logits, logits + 5, 4.0).max() < 1e-5
    nearly = kind.soft_target_loss(logits, logits + 1e-5 * torch.randn_like(logits), 1.0)
    assert (nearly >= 0).all()


def test_temperature_keeps_the_size_of_the_gradient(kind: TaskKind, of_kind: Example) -> None:
    """At high temperature T² KL tends to a squared distance of logits, which knows no T."""
    if not of_kind.temperature:
        pytest.skip("it has no temperature")
    logits, _, _ = example(kind)
    logits = (0.1 * logits).requires_grad_()
    teacher = 0.1 * example(kind, seed=1)[0]
    sizes = []
    for temperature in (8.0, 80.0):
        loss = kind.soft_target_loss(logits, teacher, temperature).mean()
        sizes.append(torch.autograd.grad(loss, logits)[0].norm())
    assert sizes[0] == pytest.approx(float(sizes[1]), rel=0.02)
    assert sizes[0] > 0


def test_gradient_reaches_the_student_alone(kind: TaskKind) -> None:
    logits, teacher, _ = example(kind)
    logits.requires_grad_()
    teacher.requires_grad_()
    kind.soft_target_loss(logits, teacher, 4.0).sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert teacher.grad is None


def test_half_precision_logits_are_computed_in_float32(kind: TaskKind) -> None:
    logits, teacher, labels = example(kind)
    half, half_teacher = logits.bfloat16(), teacher.bfloat16()
    for got, want in (
        (kind.supervised_loss(half, labels), kind.supervised_loss(half.float(), labels)),
        (
            kind.soft_target_loss(half, half_teacher, 4.0),
            kind.soft_target_loss(half.float(), half_teacher.float(), 4.0),
        ),
    ):
        assert got.dtype == torch.float32
        assert torch.equal(got, want)
    assert torch.equal(kind.statistics(half, labels), kind.statistics(half.float(), labels))
    assert all(torch.isfinite(answer).all() for answer in kind.decode(half, (8, 8)).values())


def test_agreement_is_one_with_itself_and_less_with_another(kind: TaskKind) -> None:
    logits, teacher, _ = example(kind)
    assert torch.equal(kind.agreement(logits, logits), torch.ones(6, dtype=torch.float64))
    other = kind.agreement(logits, teacher)
    assert other.min() >= 0
    assert other.mean() < 1
    assert torch.equal(other, kind.agreement(teacher, logits))


def test_the_constant_answer_scores_what_is_said(kind: TaskKind, of_kind: Example) -> None:
    """For every metric: no constant answer beats it, and the best one reaches it."""
    # Of five classes and more there is no constant answer here; a calibration error has no bar.
    for metric in (metric for metric in kind.metrics if metric not in ("top5", "ece")):
        measured = of_kind.kind(kind.name, metric)
        logits, _, labels = example(measured)
        scores = [
            float(measured.score(measured.statistics(constant, labels)))
            for constant in of_kind.constants(measured, logits, labels)
        ]
        said = measured.constant_score(measured.label_counts(labels))
        best = max(scores) if measured.higher_is_better else min(scores)
        if (kind.name, metric) == ("regression", "mae"):  # estimated from moments
            assert said == pytest.approx(best, rel=0.3)
        else:
            assert said == pytest.approx(best, abs=1e-5, rel=of_kind.tolerance)


def test_a_description_builds_the_same_kind_again(kind: TaskKind, of_kind: Example) -> None:
    built = of_kind.kind(kind.name, kind.metrics[1], **of_kind.options)
    again = build_kind(**built.describe())
    assert type(again) is type(built)
    assert vars(again) == vars(built)


def test_rows_without_a_label_are_recognised_and_filled(kind: TaskKind) -> None:
    _, _, labels = example(kind)
    size = (8, 8)
    assert kind.has_label(labels[0])
    filler = kind.filler(size)
    assert (filler.shape, filler.dtype) == (labels[0].shape, labels.dtype)


def test_wrong_words_in_a_recipe_are_answered_with_the_nearest_known_ones(kind: TaskKind) -> None:
    with pytest.raises(UserError, match=f"Did you mean '{kind.metrics[0]}'"):
        build_kind(kind.name, kind.classes, kind.metrics[0] + "s")
    with pytest.raises(UserError, match="unknown option 'label_smooting'"):
        build_kind(kind.name, kind.classes, label_smooting=0.1)
    if kind.fewest_classes == 2:
        with pytest.raises(UserError, match="at least two classes"):
            build_kind(kind.name, ("cat",))
    own = kind.fixed_classes is not None
    wrong = "and nothing else. Remove `classes`" if own else "must differ, found more than once: cat"
    with pytest.raises(UserError, match=wrong):
        build_kind(kind.name, ("cat", "dog", "cat"))
    with pytest.raises(UserError, match="Did you mean 'segmentation'"):
        build_kind("segmentaton", CLASSES)


def test_a_head_reads_only_the_features_it_names(kind: TaskKind) -> None:
    shapes = {
        "stem": FeatureShape(8, (16, 16)),
        "stage1": FeatureShape(8, (8, 8), pyramid=True),
        "stage2": FeatureShape(12, (4, 4), pyramid=True),
        "pooled": FeatureShape(12, None),
    }
    features = {name: torch.randn(2, shape.channels, *(shape.size or ())) for name, shape in shapes.items()}
    logits = kind.head(shapes)({name: features[name] for name in kind.needs(shapes)})
    assert logits.shape == ((2, kind.outputs, 8, 8) if kind.dense else (2, kind.outputs))


def test_a_kind_that_would_be_built_as_the_one_it_derives_from_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Sharper(KINDS["heatmap"]):  # type: ignore[misc]
        pass

    monkeypatch.setattr(KINDS, "_entries", {**KINDS._entries, "mine:Sharper": Sharper})
    with pytest.raises(UserError, match="mine:Sharper.*gives Heatmap.*`class_for` in Sharper"):
        build_kind("mine:Sharper", ["a"])
