"""Every network has the published size, keeps it in copies, trains, and can be made thinner or wider."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from published import PUBLISHED, images, layers_of, parameters_of, shape_of
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_sparse import SparseNetwork
from lightning_sparse.models import create_model, model_names

NAMES = list(PUBLISHED)
# Large maps take seconds to compute, and the layers don't depend on their size.
SIDES = {"resnet-50": 32, **{name: 16 for name in NAMES if name.startswith("wrn")}}


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_the_published_ones(name: str) -> None:
    model = shape_of(name)
    weights = sum(layer.weight.numel() for layer in layers_of(model).values())
    assert (parameters_of(model), weights) == PUBLISHED[name][:2]


@pytest.mark.parametrize("name", NAMES)
def test_docstrings_have_the_counts_and_the_image_size(name: str) -> None:
    documented = " ".join((type(shape_of(name)).__doc__ or "").split())
    published = PUBLISHED[name]
    numbers = [f"{published.parameters:,}", f"{published.weights:,}"]
    assert [number for number in numbers if number not in documented] == []
    side = published.image[-1]
    assert f"{side} x {side}" in documented or name.startswith("lenet")


def test_every_name_is_tested() -> None:
    assert sorted(model_names()) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_logits_have_one_column_per_class(name: str) -> None:
    batch = images(name, device="meta")
    assert shape_of(name)(batch).shape == (2, PUBLISHED[name].classes)
    assert shape_of(name, num_classes=7)(batch).shape == (2, 7)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("lenet-300-100", "mlp")])
def test_images_can_have_any_number_of_channels(name: str) -> None:
    batch = torch.randn(2, 5, *PUBLISHED[name].image[1:], device="meta")
    assert shape_of(name, in_channels=5)(batch).shape == (2, PUBLISHED[name].classes)
    with pytest.raises(ValueError, match=r"Expected images \(batch, [13], .*\); got \(2, 5, .*Cure: .*in_channels"):
        shape_of(name)(batch)
    with pytest.raises(ValueError, match=r"Expected images \(batch, 5, .*\); got"):
        shape_of(name, in_channels=5)(batch[0])


@pytest.mark.parametrize("name", ["alexnet-s", "vgg16-c", "vgg16-like", "lenet-5-caffe"])
@pytest.mark.parametrize("side", [27, 33, 64])
def test_networks_of_one_image_size_refuse_another(name: str, side: int) -> None:
    with pytest.raises(ValueError, match=rf"Expected images .*; got \(2, ., {side}, {side}\)\. Cure: resize"):
        shape_of(name)(images(name, side=side, device="meta"))


@pytest.mark.parametrize("name", ["wrn-28-2", "resnet-50"])
def test_networks_that_average_over_positions_take_any_image_size(name: str) -> None:
    for side in (48, 80):
        assert len(shape_of(name)(images(name, side=side, device="meta"))) == 2


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    model = create_model(name)
    cross_entropy(model(images(name, side=SIDES.get(name))), torch.tensor([0, 1])).backward()
    without = [key for key, value in model.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert without == []
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers_of(model).values())  # type: ignore[union-attr]  # has one


@pytest.mark.parametrize("name", NAMES)
def test_copies_compute_the_same(name: str) -> None:
    model, batch = create_model(name, width=0.2).eval(), images(name, side=SIDES.get(name))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(batch), model(batch))


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_loaded_into_a_new_network(name: str) -> None:
    model, other, batch = (
        create_model(name, width=0.2),
        create_model(name, width=0.2),
        images(name, side=SIDES.get(name)),
    )
    model(batch)  # moves the averages of batch normalization
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.eval()(batch), model.eval()(batch))


@pytest.mark.parametrize("name", NAMES)
def test_every_linear_and_convolutional_weight_can_be_masked(name: str) -> None:
    network = SparseNetwork(create_model(name, width=0.2), density=0.5)
    assert list(network.masks) == [f"{layer}.weight" for layer in layers_of(shape_of(name))]


@pytest.mark.parametrize("width", [0.5, 2.0])
@pytest.mark.parametrize("name", NAMES)
def test_width_scales_every_layer_but_keeps_inputs_and_outputs(name: str, width: float) -> None:
    published, other = layers_of(shape_of(name)), layers_of(shape_of(name, width=width))
    first, last = next(iter(published)), list(published)[-1]
    assert list(other) == list(published)
    for key, layer in published.items():
        out, inputs, *kernel = layer.weight.shape
        expected = (out if key == last else width * out, inputs if key == first else width * inputs, *kernel)
        assert tuple(other[key].weight.shape) == expected


@pytest.mark.parametrize("name", [name for name in NAMES if PUBLISHED[name].image[0] == 3])
def test_half_the_width_leaves_about_a_quarter_of_the_parameters(name: str) -> None:
    assert 0.25 < parameters_of(shape_of(name, width=0.5)) / PUBLISHED[name].parameters < 0.28


@pytest.mark.parametrize(
    ("name", "width", "density"),
    [
        ("lenet-300-100", 0.056, 0.05),
        ("lenet-5-caffe", 0.31, 0.1),
        ("alexnet-s", 0.312, 0.1),
        ("vgg16-d", 0.223, 0.05),
        ("wrn-28-2", 0.309, 0.1),
        ("wrn-28-2", 0.446, 0.2),
        ("resnet-50", 0.288, 0.1),
    ],
)
def test_some_width_has_about_the_parameters_of_a_sparse_network(name: str, width: float, density: float) -> None:
    parameters = parameters_of(shape_of(name, width=width))
    assert parameters == pytest.approx(density * PUBLISHED[name].parameters, rel=0.03)


def test_the_parameters_of_a_thin_network_are_those_of_its_rounded_layers() -> None:
    first, second = 17, 6  # 0.056 * 300 = 16.8, 0.056 * 100 = 5.6
    expected = 784 * first + first + first * second + second + second * 10 + 10
    assert parameters_of(shape_of("lenet-300-100", width=0.056)) == expected


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_width_is_refused(name: str) -> None:
    for width in (0, -0.5, float("nan"), float("inf"), "0.5", True, None, 1e-6):
        with pytest.raises(ValueError, match=r"Expected a .*width .*; got .*Cure: .*"):
            shape_of(name, width=width)


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_number_is_refused(name: str) -> None:
    inputs = "in_channels" if name not in ("lenet-300-100", "mlp") else "in_features"
    for option in ("num_classes", inputs):
        for value in (0, -1, 2.5, True, "3"):
            with pytest.raises(ValueError, match=rf"Expected {option} as an integer >= 1; got .*Cure: "):
                shape_of(name, **{option: value})


def test_batch_statistics_are_those_of_training() -> None:
    model = create_model("alexnet-s", width=0.1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        model(images("alexnet-s", count=1))
    assert isinstance(model.eval()(images("alexnet-s", count=1)), torch.Tensor)
    assert not any(isinstance(layer, nn.Dropout) for layer in model.modules())
