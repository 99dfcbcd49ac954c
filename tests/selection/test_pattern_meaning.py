"""What a pattern means: a type its weight, "default" the default layers, a tied weight all of its names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_training import TinyModule, fit
from torch import nn
from torch.nn.utils import prune

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback, SparseNetwork
from lightning_sparse.selection.layers import find_layers
from lightning_sparse.selection.weights import find_trained, find_weights, why_unmasked
from lightning_sparse.validation.representation import short_text


class ScaledConv(nn.Conv2d):
    """Has a gain of four dimensions beside its weight, as networks without normalization have."""

    def __init__(self) -> None:
        super().__init__(2, 3, 3)
        self.gain = nn.Parameter(torch.ones(3, 1, 1, 1))


class Experts(nn.Module):
    """Has parameters of its own, none of which is called `weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.ones(2, 3, 4)), nn.Parameter(torch.ones(2, 4, 3))
        self.bias = nn.Parameter(torch.ones(4))


class OneDimensional(Experts):
    """Its `weight` is a vector, as that of a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))


class Everything(nn.Module):
    """Layers of all of these kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = ScaledConv(), nn.Linear(4, 4)
        self.linear.adapter = nn.Parameter(torch.zeros(4, 2))
        self.experts, self.gated = Experts(), OneDimensional()
        self.lstm, self.attention = nn.LSTM(4, 4), nn.MultiheadAttention(4, 2)


WEIGHTS = {"conv.weight", "linear.weight"}
EXPERTS = {"experts.up", "experts.down"}
GATED = {"gated.up", "gated.down"}
LSTM = {"lstm.weight_ih_l0", "lstm.weight_hh_l0"}
BESIDE = {"conv.gain", "linear.adapter"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (nn.Conv2d, {"conv.weight"}),
        (ScaledConv, {"conv.weight"}),
        ("ScaledConv", {"conv.weight"}),
        ("*Conv", {"conv.weight"}),
        (nn.Linear, {"linear.weight", "attention.out_proj.weight"}),
        ("Linear", {"linear.weight"}),
        ("Experts", EXPERTS),
        (Experts, EXPERTS | GATED),
        ("OneDimensional", GATED),
        (nn.LSTM, LSTM),
        ("MultiheadAttention", {"attention.in_proj_weight"}),
        # Names of layers and parameters reach whatever they match.
        ("conv", {"conv.weight", "conv.gain"}),
        ("conv.gain", {"conv.gain"}),
        ("*.gain", {"conv.gain"}),
        ("linear.*", {"linear.weight", "linear.adapter"}),
        ("default", WEIGHTS),
        (["default", "LSTM"], WEIGHTS | LSTM),
        (["Experts", "default", "conv.gain"], WEIGHTS | EXPERTS | {"conv.gain"}),
    ],
    ids=short_text,
)
def test_a_type_means_the_weight_of_its_modules_and_a_name_all_that_it_matches(
    pattern: Any, expected: set[str]
) -> None:
    model = Everything()
    everything = set(find_weights(model, "*"))
    assert everything == WEIGHTS | BESIDE | EXPERTS | GATED | LSTM | {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert set(find_weights(model, pattern)) == expected
    assert set(find_weights(model, "*", exclude=pattern)) == everything - expected
    network = SparseNetwork(model, 0.9, include="*", dense=pattern)
    assert {name for name, layer in network.layers.items() if layer.dense} == expected


def test_densities_by_pattern_are_matched_like_everything_else() -> None:
    densities = {"default": 0.5, "Experts": 0.25, "*.gain": 1.0, "*": 0.75}
    layers = SparseNetwork(Everything(), densities, include="*", min_active=0).layers
    assert {name: layers[name].density for name in (*WEIGHTS, *EXPERTS)} == {
        **dict.fromkeys(WEIGHTS, 0.5),
        **dict.fromkeys(EXPERTS, 0.25),
    }
    assert layers["conv.gain"].density == 1
    assert layers["linear.adapter"].density == 0.75


def test_including_the_default_is_the_default() -> None:
    model = Everything()
    for include in ("default", ["default"], ("default", nn.Conv2d)):
        assert set(find_weights(model, include)) == set(find_weights(model)) == WEIGHTS
        assert set(find_trained(model, include)) == set(find_trained(model))


def test_callbacks_take_the_default_and_more() -> None:
    class Recurrent(TinyModule):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 4)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + self.lstm(torch.ones(2, 4))[0].sum()

    options = {"include": ["default", "LSTM"]}
    sparse, flow, plain = SparseMomentumCallback(density=0.5, **options), GradientFlowCallback(**options), Recurrent()
    fit(sparse, flow, module=plain)
    assert sparse.network is not None
    expected = {"net.0.weight", "net.3.weight", *LSTM}
    assert set(sparse.network.masks) == expected
    assert set(flow.history[0].layers) == expected


def test_layers_whose_channels_are_measured_can_be_added_to_the_default() -> None:
    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.ReLU(), nn.Linear(2, 2))
    assert list(find_layers(model, ["default", "Linear"])) == ["0", "2"]
    assert list(find_layers(model, "default")) == list(find_layers(model)) == ["0"]


@pytest.mark.parametrize("include", ["default", ["LSTM", "default"]], ids=short_text)
def test_a_default_that_is_not_there_is_an_error(include: Any) -> None:
    with pytest.raises(ValueError, match=r"a pattern that matches .*got 'default'.*Cure: choose from weight_ih"):
        find_weights(nn.LSTM(4, 4), include)
    with pytest.raises(ValueError, match=r"got 'default', which is weight \(frozen\)"):
        find_weights(nn.Linear(4, 4).requires_grad_(False), "default")


def test_a_weight_that_pytorch_prunes_is_the_weight_of_its_type() -> None:
    model = nn.Sequential(ScaledConv())
    prune.l1_unstructured(model[0], "weight", 0.5)
    assert set(find_trained(model, nn.Conv2d)) == {"0.weight"}
    assert set(find_trained(model, "*")) == {"0.weight", "0.gain"}


class TiedParameters(nn.Module):
    """One parameter in two layers of different types."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Bilinear(2, 2, 2)
        self.decoder.weight = self.encoder.weight
        self.other = nn.Linear(4, 4)


class SharedModule(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self.decoder = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)


@pytest.mark.parametrize("kind", [TiedParameters, SharedModule])
@pytest.mark.parametrize("pattern", ["encoder", "decoder", "decoder.weight", "*coder", "dec*"])
def test_a_tied_weight_is_matched_by_either_of_its_names(kind: type[nn.Module], pattern: str) -> None:
    model = kind()
    assert set(find_weights(model, pattern)) == {"encoder.weight"}
    assert set(find_weights(model, exclude=pattern)) == {"other.weight"}
    assert why_unmasked(model, exclude=pattern)["encoder.weight"] == "excluded on request"
    layers = SparseNetwork(kind(), {pattern: 0.5, "*": 0.25}).layers
    assert {name: layer.active for name, layer in layers.items()} == {"encoder.weight": 8, "other.weight": 4}


def test_a_tied_weight_is_matched_by_either_of_its_types_and_is_a_default_by_its_first() -> None:
    assert set(find_weights(TiedParameters(), nn.Bilinear)) == {"encoder.weight"}
    model = nn.ModuleDict({"table": nn.Bilinear(2, 2, 2), "head": nn.Linear(4, 2), "other": nn.Linear(2, 2)})
    model["head"].weight = model["table"].weight
    assert set(find_weights(model)) == {"other.weight"}
    assert set(find_weights(model, "Linear")) == {"table.weight", "other.weight"}


def test_names_that_are_not_tied_match_nothing_else() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(4, 4), "decoder": nn.Linear(4, 4), "other": nn.Linear(4, 4)})
    assert set(find_weights(model, "decoder")) == {"decoder.weight"}


@pytest.mark.parametrize("embedding_first", [True, False])
@pytest.mark.parametrize("table", [nn.Embedding, nn.EmbeddingBag])
def test_a_refusal_of_a_weight_tied_to_an_embedding_names_the_embedding(table: Any, embedding_first: bool) -> None:
    layers = {"wte": table(5, 4), "head": nn.Linear(4, 5, bias=False)}
    layers["head"].weight = layers["wte"].weight
    model = nn.ModuleDict({name: layers[name] for name in sorted(layers, reverse=embedding_first)})
    model["other"] = nn.Linear(4, 4)
    with pytest.raises(
        ValueError, match=r"got 'head', which is head\.weight \(of an embedding layer: tied to wte\.weight\)\. Cure"
    ):
        find_weights(model, "head")
    with pytest.raises(ValueError, match=r"'wte', which is wte\.weight \(of a normalization or embedding layer\)"):
        find_weights(model, "wte")
    first, reason = next(iter(why_unmasked(model).items()))
    assert (first, "tied to" in reason) == (("wte.weight", False) if embedding_first else ("head.weight", True))


def test_a_refusal_of_a_weight_tied_to_a_metric_or_a_normalization_names_it() -> None:
    metrics = pytest.importorskip("torchmetrics")

    class Distance(metrics.Metric):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 4)

        def update(self) -> None:
            """Measure nothing."""

        def compute(self) -> None:
            """Return nothing."""

    model = nn.ModuleDict(
        {"shared": nn.Linear(4, 4), "metric": Distance(), "scale": nn.Linear(4, 4), "norm": nn.LayerNorm((4, 4))}
    )
    model["metric"].net.weight, model["scale"].weight = model["shared"].weight, model["norm"].weight
    model["other"] = nn.Linear(4, 4)
    with pytest.raises(ValueError, match=r"shared\.weight \(of a metric: tied to metric\.net\.weight\)"):
        find_weights(model, "shared")
    with pytest.raises(ValueError, match=r"scale\.weight \(of a normalization layer: tied to norm\.weight\)"):
        find_weights(model, "scale")
