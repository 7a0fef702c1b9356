"""Batches of one data set each, turning: whose turn it is follows from the step alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_shards import open_two
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distill_mtl.checks.before_training import batchnorm_warnings
from distill_mtl.data import Batch
from distill_mtl.data.batch import ProcessShare
from distill_mtl.data.quota import Alternating

TURNING = {"mode": "alternate", "phase": 2}
CPU = torch.device("cpu")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(0.05, 1), min_size=1, max_size=2), min_size=1, max_size=5),
    st.integers(2, 100),
    st.integers(1, 7),
)
def test_the_closed_form_is_the_sum_of_the_steps(
    shares: list[list[float]], batch_size: int, length: int
) -> None:
    quota = Alternating(shares, batch_size, length)
    owner = np.repeat(np.arange(len(shares)), [len(parts) for parts in shares])
    total = np.zeros(len(owner), np.int64)
    for step in range(3 * length * len(shares) + 2):
        counts = quota.counts(step)
        assert quota.before(step).tolist() == total.tolist()
        assert counts.sum() == batch_size
        assert (counts >= 0).all()
        assert quota.phase(step) == step // length
        assert set(owner[counts > 0].tolist()) == {step // length % len(shares)}
        total += counts


def test_a_source_divides_its_own_steps_among_its_parts() -> None:
    quota = Alternating([[1.0], [0.3, 0.7]], 10, 3)
    assert quota.before(6 * 128).tolist() == [3840, 1152, 2688]
    assert [quota.counts(step).tolist() for step in (0, 3, 5, 6)] == [
        [10, 0, 0],
        [0, 3, 7],
        [0, 3, 7],
        [10, 0, 0],
    ]


def test_each_batch_is_of_one_data_set_and_they_turn_in_the_recipes_order(tmp_path: Path) -> None:
    sources = open_two(tmp_path, stream=TURNING)
    batches = list(sources.stream(steps=9))
    assert [set(batch.source.tolist()) for batch in batches] == [{step // 2 % 2} for step in range(9)]
    assert all(len(batch) == 8 for batch in batches)
    assert [summary.share for summary in sources.summary()] == [0.5, 0.5]


def test_an_epoch_of_a_source_holds_every_row_once_across_its_phases(tmp_path: Path) -> None:
    batches = list(open_two(tmp_path, stream=TURNING).stream(steps=20))
    pets = [key for batch in batches for key in batch.keys if key.startswith("pets/")]
    assert len(pets) == 80
    assert len(set(pets[:40])) == len(set(pets[40:])) == 40


def test_a_resumed_stream_is_the_tail_of_the_whole_one(tmp_path: Path) -> None:
    sources = open_two(tmp_path, stream=TURNING)
    whole = list(sources.stream(steps=11))
    for start in (1, 4, 7):
        assert _same(list(sources.stream(steps=11, start_step=start)), whole[start:])
    assert _same(list(sources.stream(steps=11, workers=1)), whole)


def test_two_processes_with_micro_batches_are_one_process(tmp_path: Path) -> None:
    sources = open_two(tmp_path, stream=TURNING)
    whole = list(sources.stream(steps=5))
    parts = [list(sources.stream(steps=5, share=ProcessShare(rank, 2), micro_batches=2)) for rank in range(2)]
    for step, batch in enumerate(whole):
        shares = [share for part in parts for share in part[2 * step : 2 * step + 2]]
        assert sorted(key for share in shares for key in share.keys) == sorted(batch.keys)
        assert [len(share) for share in shares] == [2, 2, 2, 2]


def test_a_phase_begins_where_another_data_set_has_its_turn(tmp_path: Path) -> None:
    turning = open_two(tmp_path, stream={"mode": "alternate", "phase": 3})
    assert [turning.phase(step) for step in range(8)] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert [step for step in range(8) if turning.phase_begins(step)] == [0, 3, 6]
    mixed = open_two(tmp_path)
    assert [mixed.phase(step) for step in range(4)] == [0, 0, 0, 0]
    assert [mixed.phase_begins(step) for step in range(4)] == [True, False, False, False]


def test_what_is_tried_before_training_has_rows_of_every_source(tmp_path: Path) -> None:
    mixed, turning = open_two(tmp_path), open_two(tmp_path, stream={"mode": "alternate", "phase": 100})
    expected = list(mixed.stream(steps=3, micro_batches=2))
    assert _same(list(mixed.preview(steps=3, micro_batches=2)), expected)
    assert _same(list(turning.preview(steps=3, micro_batches=2)), expected)
    assert set(expected[0].source.tolist()) == {0, 1}


class TestBatchNorm:
    """A student with BatchNorm meets other statistics in evaluation than those of one data set."""

    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def test_alternate_warns_and_names_both_ways_out(self, tmp_path: Path) -> None:
        (warning,) = batchnorm_warnings(self.norm, open_two(tmp_path, stream=TURNING), CPU, processes=1)
        assert "training.stream is alternate" in warning
        assert "student.args.norm_layer=groupnorm1" in warning
        assert "training.stream=mixed" in warning

    def test_processes_on_the_cpu_are_another_reason(self, tmp_path: Path) -> None:
        (warning,) = batchnorm_warnings(self.norm, open_two(tmp_path), CPU, processes=2)
        assert "BatchNorm" in warning
        assert "CPU" in warning
        assert "training.stream is" not in warning
        assert len(batchnorm_warnings(self.norm, open_two(tmp_path, stream=TURNING), CPU, processes=2)) == 2

    @pytest.mark.parametrize("stream", [None, TURNING])
    def test_nothing_is_said_of_other_norms_or_of_one_process_that_mixes(
        self, tmp_path: Path, stream: dict | None
    ) -> None:
        group = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4))
        assert batchnorm_warnings(group, open_two(tmp_path, stream=stream), CPU, processes=2) == []
        assert batchnorm_warnings(self.norm, open_two(tmp_path), CPU, processes=1) == []


def _same(ours: list[Batch], theirs: list[Batch]) -> bool:
    return [batch.keys for batch in ours] == [batch.keys for batch in theirs] and all(
        torch.equal(one.images, other.images) for one, other in zip(ours, theirs, strict=True)
    )
