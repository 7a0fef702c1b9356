import pytest
import torch

from distill_mtl.networks.features import find_layout


def test_a_channels_first_map_stays_as_it_is() -> None:
    raw = torch.rand(2, 48, 4, 4)
    assert find_layout(raw, (32, 32))(raw) is raw


def test_a_channels_last_map_is_turned() -> None:
    raw = torch.rand(2, 4, 8, 48)
    assert torch.equal(find_layout(raw, (32, 64))(raw), raw.permute(0, 3, 1, 2))


@pytest.mark.parametrize(("channels_last", "channels"), [(False, 3), (True, 5)])
def test_where_the_shape_leaves_both_open_the_networks_habit_decides(
    channels_last: bool, channels: int
) -> None:
    raw = torch.rand(1, 3, 4, 5)
    assert find_layout(raw, (32, 32), channels_last=channels_last)(raw).shape[1] == channels


def test_tokens_become_a_map_in_reading_order() -> None:
    grid = torch.arange(8.0).view(1, 1, 2, 4).expand(1, 5, 2, 4)
    tokens = grid.flatten(2).transpose(1, 2)
    assert torch.equal(find_layout(tokens, (32, 64))(tokens), grid)


def test_prefix_tokens_are_dropped() -> None:
    tokens = torch.rand(2, 2 + 9, 5)
    feature = find_layout(tokens, (48, 48), prefix=2)(tokens)
    assert torch.equal(feature.flatten(2).transpose(1, 2), tokens[:, 2:])


def test_a_layer_before_the_prefix_tokens_join_is_read_too() -> None:
    tokens = torch.rand(2, 9, 5)
    assert find_layout(tokens, (48, 48), prefix=1)(tokens).shape == (2, 5, 3, 3)


def test_a_vector_stays_a_vector() -> None:
    raw = torch.rand(2, 7)
    assert find_layout(raw, (32, 32))(raw) is raw


def test_tokens_that_form_no_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="7 tokens"):
        find_layout(torch.rand(1, 7, 5), (32, 32))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1, 2, 3, 4, 5\]"):
        find_layout(torch.rand(1, 2, 3, 4, 5), (32, 32))
