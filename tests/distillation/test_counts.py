import torch

from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.term import LossConfig


def test_rows_are_counted_over_micro_batches_and_processes() -> None:
    first, second = _batch([1, 1, 0]), _batch([0, 0, 0])
    here = count_rows(
        [first, second],
        [{"b": torch.arange(3)}, {"b": torch.arange(2)}],
        {"a": LossConfig(), "b": LossConfig()},
        world=2,
        reduce=lambda table: table * 2,  # the other process has the same rows
    )
    assert here.labelled == {"a": 4, "b": 0}
    assert here.taught == {"a": 0, "b": 10}
    assert here.share == 4
    assert here.present == [{"a", "b"}, {"b"}]
    assert here.absent == frozenset()


def test_a_task_present_on_another_process_alone_is_present() -> None:
    def with_the_other(table: torch.Tensor) -> torch.Tensor:
        other = table.clone()
        other[0, 0, 0] = 5
        return table + other

    counts = count_rows([_batch([0, 0])], [{}], {"a": LossConfig()}, world=2, reduce=with_the_other)
    assert counts.present == [{"a"}]


def test_labels_without_weight_do_not_make_a_task_present() -> None:
    loss_config = LossConfig({"supervised": 0})
    counts = count_rows([_batch([1, 1])], [{}], {"a": loss_config})
    assert counts.absent == {"a"}


def _batch(labelled: list[int]) -> Batch:
    rows = len(labelled)
    return Batch(
        images=torch.zeros(rows, 3, 2, 2, dtype=torch.uint8),
        labels={},
        labelled={"a": torch.tensor(labelled, dtype=torch.bool), "b": torch.zeros(rows, dtype=torch.bool)},
        keys=[""] * rows,
        source=torch.zeros(rows, dtype=torch.int64),
    )
