"""What is particular to embeddings: neighbours, standardisation, maps."""

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.maps import write_npy

CLASSES = tuple(map(str, range(5)))


def vectors(rows: int = 40, seed: int = 0) -> Tensor:
    return 3 + torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))


def kind(metric: str | None = None, **options: object) -> TaskKind:
    return build_kind("embedding", CLASSES, metric, **options)


def score(of: TaskKind, answers: Tensor, labels: Tensor) -> float:
    return float(of.score(of.statistics(answers, labels)))


def test_cosine_is_the_mean_cosine_in_points() -> None:
    answers, labels = vectors(), vectors(seed=1)
    assert score(kind(), answers, labels) == pytest.approx(
        100 * float(torch.cosine_similarity(answers.double(), labels.double()).mean())
    )
    assert score(kind(), 7 * labels, labels) == pytest.approx(100)


def test_recall_counts_rows_whose_nearest_neighbour_is_the_teachers() -> None:
    labels = vectors(2500)  # more than are looked at at once
    assert score(kind("recall_at_1"), labels, labels) == 100
    few, answers = labels[:30], vectors(30, seed=1)
    unit = [torch.nn.functional.normalize(each.double(), dim=1) for each in (answers, few)]
    nearest = [(each @ each.T).fill_diagonal_(-2).argmax(1) for each in unit]
    assert score(kind("recall_at_1"), answers, few) == pytest.approx(
        100 * float((nearest[0] == nearest[1]).double().mean())
    )
    assert score(kind("recall_at_1"), torch.ones(30, 5), few) == pytest.approx(100 / 29)


def test_mean_and_spread_are_measured_from_a_teachers_answers() -> None:
    answers = vectors(400) * torch.tensor([1.0, 1.0, 1.0, 1.0, 3.0])
    found = kind().options_from(answers.split(64))
    assert found["mean"] == pytest.approx(answers.mean(0).tolist(), rel=1e-4)
    assert found["std"] == pytest.approx(float(answers.var(0, correction=0).mean().sqrt()), rel=1e-4)
    settled = kind(**found)
    assert kind().unsettled
    assert not settled.unsettled
    constant = torch.tensor(found["mean"]).expand_as(answers)
    assert 0.9 < float(settled.soft_target_loss(constant + 1e-3, answers, 1.0).mean()) < 1.5


def test_a_teacher_that_answers_alike_for_all_pictures_is_refused() -> None:
    with pytest.raises(UserError, match="alike for all pictures"):
        kind().options_from([torch.ones(8, 5) * 3])


def test_maps_are_compared_on_the_students_grid() -> None:
    maps = kind(map=True)
    assert maps.dense
    noise = torch.Generator().manual_seed(0)
    coarse, fine = (torch.randn(2, 5, side, side, generator=noise) for side in (4, 8))
    averaged = torch.nn.functional.interpolate(fine, (4, 4), mode="bilinear", align_corners=False)
    assert torch.equal(maps.soft_target_loss(averaged, fine, 1.0), torch.zeros(2))
    assert maps.soft_target_loss(coarse, fine, 1.0).min() > 0.1
    assert maps.decode(coarse, (32, 32))["embedding"].norm(dim=1).allclose(torch.ones(2, 4, 4))
    shapes = {
        "stage1": FeatureShape(8, (8, 8), pyramid=True),
        "stage2": FeatureShape(12, (4, 4), pyramid=True),
        "pooled": FeatureShape(12, None),
    }
    assert maps.needs(shapes) == ("stage2",)
    assert maps.head(shapes)({"stage2": torch.randn(2, 12, 4, 4)}).shape == (2, 5, 4, 4)


def test_a_written_answer_is_a_label() -> None:
    answers = kind().decode(vectors(1), (8, 8))["embedding"][0]
    member, payload = kind().checked_label({"embedding": answers})
    assert member == "embedding.npy"
    assert torch.equal(kind().read_label(payload), answers)
    with pytest.raises(ValueError, match=r"shape \[4\], expected \[5\]"):
        kind().read_label(write_npy(np.zeros(4, np.float32)))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mean": [1, 2]}, "options.mean.*5 numbers"),
        ({"std": 0}, "options.std"),
        ({"map": "yes"}, "options.map.*true or false"),
        ({"smooth_l1": -1}, "options.smooth_l1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        kind(**options)
