"""A timm network cut into stages gives what the whole network gives, to the bit."""

import copy
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.stages import Chain, find_chain, tensors_in, with_each_tensor

# One of every way in which timm's networks differ, and the two with code of their own: EVA, HRNet.
NETWORKS: dict[str, dict[str, Any]] = {
    "test_resnet": {"drop_path_rate": 0.2},
    "test_convnext": {"drop_path_rate": 0.2},
    "test_efficientnet": {"drop_path_rate": 0.2},
    "test_mambaout": {},
    "test_byobnet": {},
    "test_coatnet": {},
    "test_nfnet": {},
    "test_vit": {"drop_path_rate": 0.2, "pos_drop_rate": 0.1, "proj_drop_rate": 0.1},
    "test_vit_relpos": {},
    "mobilenetv3_small_050": {"drop_rate": 0.2},
    "regnetx_002": {},
    "vit_tiny_patch16_dinov3_qkvb": {"drop_path_rate": 0.1},
    "vit_small_patch16_rope_mixed_224": {},
    "hrnet_w18_small": {},
}
REFUSED = ("levit_128s", "crossvit_tiny_240")


def network(name: str, **args: Any) -> tuple[Any, Tensor]:
    """A network with random weights, none of them 0 or 1, and two images."""
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    torch.manual_seed(0)
    known = timm.models.get_pretrained_cfg(name)
    assert known is not None
    if known.fixed_input_size and "vit" in name and "cross" not in name and "levit" not in name:
        args["img_size"] = 64
    model = timm.create_model(name, num_classes=0, **args)
    side = args.get("img_size") or (known.input_size[-1] if known.fixed_input_size else 64)
    return model, torch.rand(2, 3, side, side)


def chain_of(model: Any, images: Tensor) -> Chain:
    return find_chain(model, (images.shape[-2], images.shape[-1]))


@functools.cache
def cut(name: str) -> tuple[Any, Tensor, Chain]:
    """One of NETWORKS, images and its chain; tests train copies of it."""
    model, images = network(name, **NETWORKS[name])
    return model, images, chain_of(model, images)


def cuts(chain: Chain) -> Iterator[int]:
    return iter(range(1, len(chain), max(1, len(chain) // 6)))


def seeded(run: Any) -> Any:
    torch.manual_seed(7)
    return run()


@pytest.mark.parametrize("name", NETWORKS)
def test_two_parts_give_what_the_whole_network_gives_to_the_bit(name: str) -> None:
    model, images, chain = cut(name)
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        whole = model.forward_features(images)
        pooled = model.forward_head(whole, pre_logits=True)
        for at in cuts(chain):
            first, second = chain.cut(model, 0, at), cast(Any, chain.cut(model, at, len(chain)))
            end = chain.run(second, chain.run(first, images, 0, at), at)
            assert torch.equal(end, whole), at
            assert torch.equal(second.forward_head(end, pre_logits=True), pooled)


@pytest.mark.parametrize("name", NETWORKS)
def test_training_gives_the_same_outputs_statistics_and_gradients(name: str) -> None:
    model, images, chain = cut(name)
    at = len(chain) // 2
    parts = [chain.cut(model, 0, at).train(), chain.cut(model, at, len(chain)).train()]
    whole = copy.deepcopy(model).train()
    expected = seeded(lambda: whole.forward_features(images))
    found = seeded(lambda: chain.run(parts[1], chain.run(parts[0], images, 0, at), at))
    assert torch.equal(found, expected)
    for end in (expected, found):
        end.square().mean().backward()
    state = {key: value for part in parts for key, value in part.state_dict().items()}
    assert all(torch.equal(value, state[key]) for key, value in whole.state_dict().items())
    gradients = {key: value.grad for part in parts for key, value in part.named_parameters()}
    for key, parameter in whole.named_parameters():
        other = gradients[key]
        assert (parameter.grad is None) == (other is None)
        assert parameter.grad is None or other is None or torch.equal(parameter.grad, other)


@pytest.mark.parametrize("name", NETWORKS)
def test_parts_have_timms_own_keys_each_once(name: str) -> None:
    model, _, chain = cut(name)
    ends = [*cuts(chain), len(chain)]
    parts = [chain.cut(model, start, stop) for start, stop in zip([0, *ends], ends, strict=False)]
    keys = [key for part in parts for key in part.state_dict()]
    assert sorted(keys) == sorted(model.state_dict())


def test_a_part_loads_back_into_timms_network() -> None:
    model, images = network("test_resnet")
    chain = chain_of(model, images)
    parts = chain.cut(model, 0, 6), chain.cut(model, 6, 8)
    other: nn.Module = timm.create_model("test_resnet", num_classes=0)
    other.load_state_dict(parts[0].state_dict() | parts[1].state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(other.eval()(images), model.eval()(images))


def test_finding_leaves_network_and_random_state_as_they_were() -> None:
    model, images = network("test_resnet")
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    chain_of(model, images)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_cut_is_refused_by_name(name: str) -> None:
    model, images = network(name)
    with pytest.raises(UserError, match=name):
        find_chain(model, (images.shape[-2], images.shape[-1]), name=name)


def test_a_stage_that_does_not_exist_names_the_nearest() -> None:
    model, images = network("test_resnet")
    with pytest.raises(UserError, match=r"layr3.*'layer3'"):
        chain_of(model, images).position("layr3")


def test_a_stage_begins_with_its_first_weights() -> None:
    model, images = network("test_resnet")
    chain = chain_of(model, images)
    starts = chain.depths(model)
    assert [chain.names[at] for at in starts.values()] == ["conv1", "layer1", "layer2", "layer3", "layer4"]


def test_states_of_several_tensors_are_walked_in_order() -> None:
    state = (torch.zeros(1), [torch.ones(2), None])
    assert [len(tensor) for tensor in tensors_in(state)] == [1, 2]
    changed = with_each_tensor(lambda tensor: tensor + 1, state)
    assert changed[1][0].tolist() == [2, 2]
    assert changed[1][1] is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_network_of_every_module_of_timm_is_cut_or_known_not_to_be() -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "stages.py"
    spec = importlib.util.spec_from_file_location("census_of_stages", file)
    assert spec is not None
    assert spec.loader is not None
    census = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(census)
    whole = {row.module for row in census.rows() if row.steps == 0}
    assert whole <= set(census.NOT_CUT)
