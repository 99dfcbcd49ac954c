"""Which weights are masked by default, by wish and never."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lightning_sparse.network import SparseNetwork
from lightning_sparse.selection.weights import find_weights


class Everything(nn.Module):
    """One of each kind of layer that a default has to decide on."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.conv1 = nn.Conv1d(2, 2, 3)
        self.conv2 = nn.Conv2d(2, 2, 3)
        self.conv3 = nn.Conv3d(2, 2, 3)
        self.up1 = nn.ConvTranspose1d(2, 2, 3)
        self.up2 = nn.ConvTranspose2d(2, 2, 3)
        self.up3 = nn.ConvTranspose3d(2, 2, 3)
        self.batch_norm = nn.BatchNorm2d(2)
        self.instance_norm = nn.InstanceNorm2d(2, affine=True)
        self.layer_norm = nn.LayerNorm((4, 4))
        self.group_norm = nn.GroupNorm(2, 4)
        self.rms_norm = nn.RMSNorm((4, 4))
        self.embedding = nn.Embedding(5, 4)
        self.bag = nn.EmbeddingBag(5, 4)
        self.prelu = nn.PReLU(4)
        self.lstm = nn.LSTM(4, 4, num_layers=2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.position = nn.Parameter(torch.zeros(7, 4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


DEFAULT = {f"{layer}.weight" for layer in ("linear", "conv1", "conv2", "conv3", "up1", "up2", "up3")}
LSTM = {f"lstm.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in (0, 1)}


def chosen(**wishes: Any) -> set[str]:
    return set(find_weights(Everything(), **wishes))


def test_by_default_linear_and_convolutional_weights_are_masked() -> None:
    assert chosen() >= DEFAULT


def test_by_default_nothing_else_is_masked() -> None:
    assert chosen(exclude="attention*") == DEFAULT


def test_attention_is_masked_only_if_included() -> None:
    assert not any(name.startswith("attention") for name in chosen())
    assert chosen(include="attention*") == {"attention.in_proj_weight", "attention.out_proj.weight"}


def test_norms_embeddings_biases_and_frozen_weights_cannot_be_included() -> None:
    never = (
        "batch_norm",
        "instance_norm",
        "layer_norm",
        "group_norm",
        "rms_norm",
        "embedding",
        "bag",
        "prelu",
        "frozen",
    )
    everything = chosen(include="*")
    assert not {name for name in everything if name.startswith(never) or "bias" in name}
    assert everything > DEFAULT | LSTM | {"position"}


@pytest.mark.parametrize("layer", ["batch_norm", "layer_norm", "rms_norm", "embedding", "bag", "frozen", "linear.bias"])
def test_including_what_is_never_masked_is_an_error(layer: str) -> None:
    with pytest.raises(ValueError, match=f"got '{layer}'"):
        chosen(include=layer)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("linear", {"linear.weight"}),
        ("linear.weight", {"linear.weight"}),
        ("up?", {"up1.weight", "up2.weight", "up3.weight"}),
        ("Conv?d", {"conv1.weight", "conv2.weight", "conv3.weight"}),
        (nn.Conv2d, {"conv2.weight"}),
        (nn.modules.conv._ConvNd, DEFAULT - {"linear.weight"}),
        (["linear", nn.Conv1d], {"linear.weight", "conv1.weight"}),
        (("conv[12]", "linear*"), {"conv1.weight", "conv2.weight", "linear.weight"}),
        ("lstm", LSTM),
        ("LSTM", LSTM),
        (nn.LSTM, LSTM),
        ("*.weight_hh_*", {"lstm.weight_hh_l0", "lstm.weight_hh_l1"}),
        ("position", {"position"}),
    ],
)
def test_layers_are_chosen_by_layer_parameter_and_type(pattern: Any, expected: set[str]) -> None:
    assert chosen(include=pattern) == expected
    assert chosen(include="*", exclude=pattern) == chosen(include="*") - expected


def test_excluding_wins_over_including() -> None:
    assert chosen(include=["linear", "conv1"], exclude=nn.Conv1d) == {"linear.weight"}
    assert chosen(exclude=["conv?", "up?", "attention*"]) == {"linear.weight"}


@pytest.mark.parametrize("wish", ["include", "exclude"])
def test_a_pattern_without_a_match_is_an_error_that_names_candidates(wish: str) -> None:
    with pytest.raises(
        ValueError, match=r"Expected a pattern that match.*got 'liner'.*Cure: choose from .*linear.weig"
    ):
        chosen(**{wish: ["conv1", "liner"]})
    with pytest.raises(ValueError, match="got 'Linear '"):
        chosen(**{wish: "Linear "})


def test_a_layer_pattern_does_not_match_a_longer_name() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(12)))
    assert set(find_weights(model, exclude="1")) == {f"{index}.weight" for index in range(12) if index != 1}


def test_including_nothing_is_an_error_and_excluding_nothing_is_not() -> None:
    with pytest.raises(ValueError, match=r"Expected at least one pattern to include; got none.*Cure"):
        chosen(include=[])
    assert chosen(exclude=[]) == chosen(include=None) == DEFAULT


def test_excluding_everything_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"Expected at least one weight to mask; got none.*Cure: choose from"):
        chosen(exclude="*")


def test_a_model_without_maskable_layers_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"got none from BatchNorm1d.*Cure: the model needs trainable linear"):
        find_weights(nn.BatchNorm1d(3))


@pytest.mark.parametrize("wish", ["include", "exclude"])
@pytest.mark.parametrize("pattern", [3, ["linear", 3], int, [None], 0.5])
def test_a_pattern_of_another_kind_is_a_type_error(wish: str, pattern: Any) -> None:
    with pytest.raises(TypeError, match="Expected a glob or a module type to choose layers by; got"):
        chosen(**{wish: pattern})


def test_weights_come_in_the_order_of_the_model() -> None:
    assert list(find_weights(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Conv2d(1, 1, 1)), nn.Linear(2, 2)))) == [
        "0.weight",
        "1.0.weight",
        "2.weight",
    ]


def test_a_tied_weight_counts_once_and_stays_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    network = SparseNetwork(model, 0.5)
    assert {name: layer.active for name, layer in network.layers.items()} == {"0.weight": 8}
    assert model[2].weight is model[0].weight
    assert int(torch.count_nonzero(model[2].weight)) == 8


@pytest.mark.parametrize("embedding_first", [True, False])
def test_a_weight_tied_to_an_embedding_is_never_masked(embedding_first: bool) -> None:
    embedding, head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    head.weight = embedding.weight
    layers = [embedding, head] if embedding_first else [head, embedding]
    assert set(find_weights(nn.Sequential(*layers, nn.Linear(4, 4)))) == {"2.weight"}
    with pytest.raises(ValueError, match="Expected at least one weight to mask"):
        find_weights(nn.Sequential(*layers))


def test_a_module_used_twice_counts_once() -> None:
    shared = nn.Linear(4, 4)
    assert list(find_weights(nn.ModuleDict({"first": shared, "second": shared}))) == ["first.weight"]


def test_only_the_weight_of_a_linear_layer_is_masked_not_a_matrix_next_to_it() -> None:
    layer = nn.Linear(4, 4)
    layer.adapter = nn.Parameter(torch.zeros(4, 2))
    assert set(find_weights(layer)) == {"weight"}
    assert set(find_weights(layer, include="adapter")) == {"adapter"}


def test_a_subclass_of_a_linear_layer_is_masked_like_one() -> None:
    class Own(nn.Linear):
        pass

    assert set(find_weights(nn.Sequential(Own(4, 4), nn.LazyLinear(3).cls_to_become(2, 2)))) == {"0.weight", "1.weight"}


def test_lazy_layers_are_an_error_until_they_have_a_shape() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LazyLinear(3))
    with pytest.raises(ValueError, match=r"got the lazy '1.weight'. Cure: run one forward pass"):
        find_weights(model)
    model(torch.zeros(1, 4))
    assert set(find_weights(model)) == {"0.weight", "1.weight"}


def test_compiling_a_submodule_does_not_change_names() -> None:
    model = nn.Module()
    model.body = torch.compile(nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 4))))
    model.head = torch.compile(nn.Linear(4, 2))
    assert "body._orig_mod.0.weight" in dict(model.named_parameters())
    assert list(find_weights(model)) == ["body.0.weight", "body.1.weight", "head.weight"]
    assert set(find_weights(model, include="head")) == {"head.weight"}
    assert set(find_weights(torch.compile(nn.Sequential(nn.Linear(2, 2))))) == {"0.weight"}
