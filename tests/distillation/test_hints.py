import pytest
import torch

from distill_mtl.distillation.terms.hint import Hint
from distill_mtl.networks.features import FeatureShape

MAP = FeatureShape(6, (4, 4))
TEACHER_MAP = FeatureShape(3, (2, 2))
VECTOR = FeatureShape(5, None)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [(MAP, TEACHER_MAP), (TEACHER_MAP, MAP), (VECTOR, MAP), (MAP, VECTOR), (VECTOR, VECTOR)],
)
def test_an_adapter_joins_maps_and_vectors_of_any_size(student: FeatureShape, teacher: FeatureShape) -> None:
    hint = Hint(student, teacher)
    loss = hint(_feature(student), _feature(teacher))
    assert loss.shape == (7,)
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in hint.adapter.parameters())


def test_targets_are_standardised_by_channel_means_and_one_scale() -> None:
    hint = Hint(MAP, TEACHER_MAP)
    feature = torch.randn(50, 3, 2, 2) * torch.tensor([1.0, 10.0, 100.0])[:, None, None] + 7
    hint.calibrate([feature[:20], feature[20:]])
    assert torch.allclose(hint.mean, feature.mean((0, 2, 3)), atol=1e-4)
    variances = feature.transpose(0, 1).flatten(1).var(1, correction=0)
    assert torch.allclose(hint.scale, variances.mean().sqrt(), rtol=1e-4)


def test_a_student_that_knows_only_the_mean_has_loss_one() -> None:
    hint = Hint(VECTOR, VECTOR)
    feature = torch.randn(4000, 5) * 3 + 2
    hint.calibrate([feature])
    torch.nn.init.zeros_(hint.adapter.weight)  # type: ignore[arg-type]
    torch.nn.init.zeros_(hint.adapter.bias)  # type: ignore[arg-type]
    assert hint(torch.randn(4000, 5), feature).mean().item() == pytest.approx(1.0, rel=1e-4)


def test_a_constant_feature_does_not_divide_by_zero() -> None:
    hint = Hint(VECTOR, VECTOR)
    hint.calibrate([torch.ones(8, 5)])
    assert torch.isfinite(hint(torch.randn(8, 5), torch.ones(8, 5))).all()


def test_no_gradient_reaches_the_teacher() -> None:
    feature = torch.randn(7, 5)
    Hint(VECTOR, VECTOR)(torch.randn(7, 5, requires_grad=True), feature).sum().backward()
    assert feature.grad is None


def _feature(shape: FeatureShape) -> torch.Tensor:
    return torch.randn(7, shape.channels, *(shape.size or ()))
