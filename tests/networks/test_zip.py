"""Networks of one architecture merged: channels put in order, layers fitted in closed form."""

import pytest
import timm
import torch
from torch import nn

from distill_mtl.errors import UserError
from distill_mtl.networks.channel_graph import read_channels
from distill_mtl.networks.zip import matched_orders, merged, reordered


def network(name="test_resnet", seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=0).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                nn.init.normal_(module.bias)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def rows(count=24, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


NAMES = ["test_resnet", "resnet18", "resnet50", "efficientnet_b0", "mobilenetv2_050"]


@pytest.mark.parametrize("name", NAMES)
def test_a_network_in_another_order_of_its_channels_gives_the_same(name):
    model = network(name)
    channels = read_channels(model, name)
    images = rows(2)
    generator = torch.Generator().manual_seed(1)
    sizes = {layer.out: model.get_submodule(layer.conv).out_channels for layer in channels.layers}
    order = {space: torch.randperm(size, generator=generator) for space, size in sizes.items()}
    with torch.no_grad():
        one, other = (
            model.forward_features(images),
            reordered(channels, model, order).forward_features(images),
        )
    last = order[channels.space_of("pooled")]
    torch.testing.assert_close(other, one[:, last], rtol=1e-3, atol=1e-4)


def test_every_weight_of_a_read_network_is_in_a_layer():
    model = network()
    read = {name for layer in read_channels(model, "test_resnet").layers for name in (layer.conv, layer.norm)}
    assert {name.rpartition(".")[0] for name, _ in model.named_parameters()} == read


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("vit_tiny_patch16_224", "vit_tiny"),
        ("densenet121", "cat"),
        ("convnext_atto", "LayerNorm"),
        ("regnety_002", "groups"),
        ("vgg11_bn", "pre_logits"),
        ("tf_efficientnet_b0", "conv_stem is a Conv2dSame"),
        ("nf_resnet26", "ScaledStdConv2d"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name, word):
    with pytest.raises(UserError, match=word):
        read_channels(timm.create_model(name, num_classes=0), name)


@pytest.mark.parametrize("padding", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_a_convolution_that_pads_in_another_way_is_refused(padding):
    model = network()
    model.layer1[0].conv1 = nn.Conv2d(32, 32, 3, bias=False, **padding)
    with pytest.raises(UserError, match=r"layer1\.0\.conv1 pads by"):
        read_channels(model, "test_resnet")


def test_matching_finds_the_order_again():
    model = network()
    channels = read_channels(model, "test_resnet")
    generator = torch.Generator().manual_seed(1)
    sizes = {layer.out: model.get_submodule(layer.conv).out_channels for layer in channels.layers}
    order = {space: torch.randperm(size, generator=generator) for space, size in sizes.items()}
    twin = reordered(channels, model, order)
    found = matched_orders(channels, [model, twin], [rows(), rows()])
    back = reordered(channels, twin, found[1])
    with torch.no_grad():
        torch.testing.assert_close(
            back.forward_features(rows(2)), model.forward_features(rows(2)), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv2_050"])
def test_a_network_merged_with_itself_is_itself(name):
    model = network(name)
    images = rows(48)
    made = merged(read_channels(model, name), [model, model], [images] * 3)
    with torch.no_grad():
        one, other = model.forward_features(images), made.forward_features(images)
    assert (one - other).pow(2).mean() < 0.02 * one.var()


def test_merging_leaves_the_networks_as_they_were():
    model, other = network(), network(seed=1)
    before = [value.clone() for value in (*model.state_dict().values(), *other.state_dict().values())]
    merged(read_channels(model, "test_resnet"), [model, other], [rows()] * 3)
    after = (*model.state_dict().values(), *other.state_dict().values())
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
