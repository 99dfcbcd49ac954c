import pytest
import torch
from torch import nn

from lightning_sparse.selection.layers import find_layers


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3))
        self.head = nn.Linear(3, 2)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (None, ["features.0", "features.2"]),
        ("features.*", ["features.0", "features.1", "features.2"]),
        ("Linear", ["head"]),
        (nn.ReLU, ["features.1"]),
        (["head", nn.Conv2d], ["features.0", "head"]),
    ],
)
def test_layers_are_found_by_name_glob_or_type_in_the_order_of_the_model(patterns: object, names: list[str]) -> None:
    assert list(find_layers(Network(), patterns)) == names  # type: ignore[arg-type]  # one of several kinds


@pytest.mark.parametrize("patterns", ["tail.*", ["head", "tail.*"]])
def test_a_pattern_that_matches_no_layer_is_an_error_that_names_the_layers(patterns: object) -> None:
    with pytest.raises(ValueError, match=r"layers that 'tail\.\*' matches in Network; got none\. Cure: .*features\.0"):
        find_layers(Network(), patterns)  # type: ignore[arg-type]  # one of several kinds


def test_a_model_without_convolutions_is_an_error_by_default_and_fine_with_patterns() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="Expected convolutions in Sequential; got none"):
        find_layers(model)
    assert list(find_layers(model, nn.Linear)) == ["0"]


def test_a_compiled_layer_has_the_name_that_the_user_wrote_and_is_the_wrapped_one() -> None:
    model = Network()
    layer = model.head
    model.head = torch.compile(layer)  # type: ignore[assignment]  # a wrapper of the layer
    assert find_layers(model, "head") == {"head": layer}
