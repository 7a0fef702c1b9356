from pathlib import Path

import torch

from distill_mtl.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint


def test_the_last_checkpoints_are_kept_and_read_back(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, {"weight": torch.full((2,), float(step))}, keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000010", "step_00000015"]
    step, state = load_checkpoint(list_checkpoints(tmp_path)[-1])
    assert step == 15
    assert state["weight"].tolist() == [15.0, 15.0]


def test_what_a_kill_left_half_written_is_not_a_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, {}, keep=2)
    half = tmp_path / ".step_00000010.77-0123abcd.part"
    half.mkdir()
    (half / "state.pt").write_bytes(b"half")
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step_00000005"]
    save_checkpoint(tmp_path, 10, {}, keep=2)
    assert not half.exists()
    assert load_checkpoint(list_checkpoints(tmp_path)[-1])[0] == 10
