import copy

import pytest
import timm
import torch

from distill_mtl.errors import UserError
from distill_mtl.networks.backbone import Backbone
from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract

# One of every way in which timm's networks differ: plain, NHWC, tokens with and without a class token,
# a wider pooled vector than the last stage, fixed and free image size, layers behind the last stage.
NETWORKS = [
    name
    for name in (
        "test_resnet",
        "test_convnext",
        "test_efficientnet",
        "test_mambaout",
        "test_byobnet",
        "test_coatnet",
        "test_nfnet",
        "test_vit",
        "test_vit_relpos",
    )
    if timm.is_model(name)  # timm 1.0.20 lacks two of them
]
SIZE = (64, 64)


def backbone(
    name: str = "test_resnet", size: tuple[int, int] = SIZE, classes: int = 0, **args: object
) -> Backbone:
    if timm.models.get_pretrained_cfg(name).fixed_input_size:
        args = {**args, "img_size": size}
    model = timm.create_model(name, num_classes=classes, **args).eval()
    return Backbone(model, InputContract.from_timm(model.pretrained_cfg, size))


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_timms_networks_are_maps_of_the_shapes_announced(name: str) -> None:
    network = backbone(name)
    network.tap(("pooled", *network.stages))
    features = network(torch.rand(2, 3, 50, 40))
    assert list(features) == ["pooled", *network.stages]
    for feature_name, feature in features.items():
        shape = network.shapes[feature_name]
        assert feature.shape == (2, shape.channels, *(shape.size or ()))
        assert shape.pyramid == (feature_name != "pooled")
    sides = [network.shapes[stage].size for stage in network.stages]
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] in ((2, 2), (4, 4))


@pytest.mark.parametrize("name", NETWORKS)
def test_pooled_and_logits_are_what_the_network_itself_gives(name: str) -> None:
    network = backbone(name, classes=5)
    network.tap(["pooled", "logits"])
    images = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        features, whole = network(images), network.model(network.preprocess(images))
        classifier = network.model.get_classifier()
    assert torch.allclose(features["logits"], whole, atol=1e-6)
    assert torch.allclose(classifier(features["pooled"]), whole, atol=1e-6)


def test_channels_last_and_first_networks_agree_on_what_is_where() -> None:
    network = backbone("test_mambaout")
    raw = {}
    network.model.stages[1].register_forward_hook(lambda module, inputs, output: raw.update(out=output))
    feature = network(torch.rand(1, 3, *SIZE))["stages.1"]
    assert torch.equal(feature[0, :, 3, 1], raw["out"][0, 3, 1])


def test_the_last_block_of_a_transformer_is_a_map_without_its_class_token() -> None:
    network = backbone("test_vit")
    raw = {}
    network.model.blocks[-1].register_forward_hook(lambda module, inputs, output: raw.update(out=output))
    feature = network(torch.rand(1, 3, *SIZE))[network.last]
    assert network.last == "blocks.5"
    assert torch.equal(feature[0, :, 1, 2], raw["out"][0, 1 + 1 * 4 + 2])


def test_a_grid_of_tokens_follows_an_oblong_image() -> None:
    assert backbone("test_vit", size=(32, 64)).shapes["blocks.5"].size == (2, 4)


@pytest.mark.parametrize("layer", ["layer3.0.bn1", "layer1.0.conv2", "global_pool.pool"])
def test_any_inner_layer_can_be_tapped(layer: str) -> None:
    network = backbone()
    network.tap([layer])
    assert list(network(torch.rand(2, 3, *SIZE))) == [layer]
    assert layer in network.shapes
    assert not network.shapes[layer].pyramid


def test_tapping_moves_no_statistics_and_keeps_the_mode() -> None:
    network = backbone().train()
    network.model.layer1.eval()
    before = copy.deepcopy(network.state_dict())
    network.tap(["layer2"])
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert network.model.training
    assert not network.model.layer1.training


def test_a_deep_copy_reads_its_own_features() -> None:
    network, images = backbone(), torch.rand(2, 3, *SIZE)
    twin = copy.deepcopy(network)
    for parameter in twin.parameters():
        parameter.data.mul_(0.5)
    expected = network(images)["layer4"]
    assert not torch.allclose(twin(images)["layer4"], expected)
    assert torch.equal(network(images)["layer4"], expected)


def test_a_training_pass_can_be_followed_by_a_deep_copy() -> None:
    network = backbone().train()
    sum(feature.sum() for feature in network(torch.rand(2, 3, *SIZE)).values()).backward()
    copy.deepcopy(network)


def test_state_dict_holds_the_network_alone() -> None:
    network = backbone()
    assert set(network.state_dict()) == {f"model.{key}" for key in network.model.state_dict()}


def test_a_network_without_readable_stages_still_has_its_pooled_vector() -> None:
    model = timm.create_model("test_resnet", num_classes=0)
    model.feature_info = []
    network = Backbone(model, InputContract.from_timm(model.pretrained_cfg, SIZE))
    assert network.stages == ()
    assert network.last == "pooled"
    assert list(network(torch.rand(1, 3, 20, 20))) == ["pooled"]


def test_a_stage_that_gives_a_list_is_its_first_map_of_every_size() -> None:
    class Branching(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [images, images, images[..., ::2, ::2], images.mean((2, 3))]

    model = timm.create_model("test_resnet", num_classes=0)
    model.layer3 = torch.nn.Sequential(model.layer3, Branching(), torch.nn.Identity())
    model.layer4 = torch.nn.Sequential(Joining(), model.layer4)
    network = Backbone(model, InputContract.from_timm(model.pretrained_cfg, SIZE))
    assert network.stages == ("act1", "layer1", "layer2", "layer3[0]", "layer3[2]", "layer4")
    assert {"layer3[0]", "layer3[2]"} <= set(network.features()) <= set(network.layer_names())
    with pytest.raises(UserError, match=r"'layer3' gives a list.* Choose layer3\[0\] or layer3\[1\] or"):
        network.tap(["layer3"])
    with pytest.raises(UserError, match=r"no 'layer3\[4\]'.*: layer3\[0\], layer3"):
        network.tap(["layer3[4]"])
    with pytest.raises(UserError, match=r"no 'layer2\[0\]' in what that layer gives: Tensor"):
        network.tap(["layer2[0]"])


class Joining(torch.nn.Module):
    """Takes the first branch."""

    def forward(self, branches: list[torch.Tensor]) -> torch.Tensor:
        return branches[0]


def test_an_image_size_that_the_network_cannot_take_is_refused_with_its_size() -> None:
    model = timm.create_model("test_vit", num_classes=0, dynamic_img_size=False)
    with pytest.raises(UserError, match="cannot run on 48x48 pixels"):
        Backbone(model, InputContract.from_timm(model.pretrained_cfg, (48, 48)))


def test_an_unknown_layer_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no layer 'block\.5'\. Did you mean 'blocks\.5'"):
        backbone("test_vit").tap(["block.5"])


def test_a_refused_layer_leaves_the_features_as_they_were() -> None:
    network = backbone()
    before = network.returns
    with pytest.raises(UserError):
        network.tap(["layer9"])
    assert network.returns == before
    assert set(network(torch.rand(1, 3, *SIZE))) == set(before)


def test_layer_names_list_what_can_be_tapped() -> None:
    names = backbone().layer_names()
    assert {"pooled", "layer4", "layer2.0.conv1"} <= set(names)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_mambaout"])
def test_every_feature_that_is_listed_can_be_read_in_the_shape_that_is_said(name: str) -> None:
    network = backbone(name)
    before = network.returns
    listed = network.features()
    assert network.returns == before
    assert {"pooled", *network.stages} <= set(listed) <= set(network.layer_names())
    network.tap(listed)
    for layer, feature in network(torch.rand(1, 3, *SIZE)).items():
        assert FeatureShape.of(feature) == listed[layer]
