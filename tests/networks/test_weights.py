import json
from pathlib import Path

import pytest
import torch
from torch import nn

from distill_mtl.errors import UserError
from distill_mtl.networks.weights import load_exactly, read_config, read_weights, sha256, write_network


def test_a_network_is_read_as_it_was_written(tmp_path: Path) -> None:
    state = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).state_dict()
    write_network(tmp_path / "net", {"size": [3, 4]}, state, "# card")
    read = read_weights(tmp_path / "net")
    assert all(torch.equal(read[key], value) for key, value in state.items())
    assert read_config(tmp_path / "net") == {"size": [3, 4]}
    assert (tmp_path / "net" / "README.md").read_text() == "# card"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net"]


def test_tensors_that_share_memory_can_be_written(tmp_path: Path) -> None:
    tied = torch.rand(3)
    write_network(tmp_path / "net", {}, {"a": tied, "b": tied, "c": tied[:2]}, "")
    assert torch.equal(read_weights(tmp_path / "net")["c"], tied[:2])


def test_an_earlier_network_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    write_network(folder, {"old": 1}, {"a": torch.zeros(1)}, "")
    (folder / "score.json").write_text("{}")
    write_network(folder, {"new": 1}, {"b": torch.zeros(1)}, "")
    assert read_config(folder) == {"new": 1}
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_a_write_that_fails_leaves_the_earlier_network(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    write_network(folder, {"old": 1}, {"a": torch.zeros(1)}, "")
    with pytest.raises(TypeError):
        write_network(folder, {"new": object()}, {"a": torch.ones(1)}, "")
    assert read_config(folder) == {"old": 1}
    assert torch.equal(read_weights(folder)["a"], torch.zeros(1))
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds no network"):
        write_network(tmp_path, {}, {}, "")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_missing_folder_and_a_missing_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"it has no config\.json"):
        read_config(tmp_path)


@pytest.mark.parametrize(("text", "complaint"), [("{", "not valid JSON"), ("[]", "found a list")])
def test_a_broken_config_is_refused_with_its_path(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"config.json.*{complaint}"):
        read_config(tmp_path)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"never to be unpickled")
    with pytest.raises(UserError, match=r"pytorch_model\.bin, a pickle, which could run code"):
        read_weights(tmp_path)
    with pytest.raises(UserError, match=r"not a \.safetensors file"):
        read_weights(tmp_path / "pytorch_model.bin")


def test_a_weights_file_cut_short_is_refused_with_its_path(tmp_path: Path) -> None:
    write_network(tmp_path / "net", {}, {"a": torch.zeros(100)}, "")
    file = tmp_path / "net" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        read_weights(file)


def test_every_kind_of_difference_is_named() -> None:
    state = {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}
    with pytest.raises(UserError) as caught:
        load_exactly(nn.Linear(3, 2), state, "teachers/x")
    message = str(caught.value)
    assert "teachers/x" in message
    assert "missing in the file: bias" in message
    assert "not in the network: scale" in message
    assert "weight is [2, 4] in the file, [2, 3] in the network" in message


def test_a_long_list_of_differences_is_cut() -> None:
    with pytest.raises(UserError, match="and 1 more"):
        load_exactly(nn.Linear(1, 1, bias=False), {f"key{index}": torch.zeros(1) for index in range(6)}, "x")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(json.dumps({}).encode())
    assert sha256(tmp_path / "file") == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
