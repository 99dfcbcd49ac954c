"""Speed-up, operations and bytes all find a network's masks, with any wrapper; no mask is silently ignored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lightning_sparse import SparseNetwork
from lightning_sparse.analysis import count_bytes, count_flops, estimate_speedup

IMAGES = torch.ones(2, 4, 5, 5)
WEIGHTS = 4 * 4 * 9


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1, bias=False)


class Inside(nn.Module):
    """A module with a network inside, like a LightningModule."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.model(images)
        return output


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()
        self.b.weight = self.a.weight

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.b(self.a(images))
        return output


def plain() -> nn.Module:
    return nn.Sequential(conv(), nn.ReLU(), conv())


def compiled() -> nn.Module:
    model: nn.Module = torch.compile(plain(), backend="eager")  # type: ignore[assignment]  # a module of a module
    return model


def compiled_in_place() -> nn.Module:
    model = plain()
    model.compile(backend="eager")
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "one layer": conv,
    "plain": plain,
    "compiled": compiled,
    "compiled inside": lambda: Inside(compiled()),
    "compiled in place": compiled_in_place,
    "tied": Tied,
}


@pytest.mark.parametrize("name", MODELS)
def test_masks_are_found(name: str) -> None:
    model = MODELS[name]()
    with torch.no_grad():
        model(IMAGES)  # compiles before there are hooks
    network = SparseNetwork(model, 0.25)
    masks = network.masks
    speedup = estimate_speedup(model, masks, IMAGES, repeats=1)
    densities = {}
    for layer in speedup.layers:
        mask = masks.get(f"{layer}.weight".lstrip("."), masks[next(iter(masks))])  # the second: of a tied layer
        densities[layer] = float(mask.double().mean())
    assert {layer: cost.weight_density for layer, cost in speedup.layers.items()} == pytest.approx(densities)
    assert 1 / max(densities.values()) - 1e-9 <= speedup.sparse <= 1 / min(densities.values()) + 1e-9
    flops = count_flops(model, masks, IMAGES)
    assert flops.sparse == pytest.approx(flops.dense / 4, abs=1)
    count = len({id(parameter) for parameter in model.parameters()})
    assert count_bytes(model, masks).dense == count * WEIGHTS * 4
    assert count_bytes(model, masks).bitmask == count * (WEIGHTS + WEIGHTS // 8)
    assert count_flops(model, None, IMAGES) == flops


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_left_as_it_was_compiled_or_not(name: str) -> None:
    def state(model: nn.Module) -> list[object]:
        return [
            (path, id(module), module.training, {k: id(v) for k, v in vars(module).items() if k != "training"})
            for path, module in model.named_modules()
        ]

    model = MODELS[name]()
    before = state(model)
    estimate_speedup(model, None, IMAGES, repeats=1)
    count_flops(model, None, IMAGES)
    assert state(model) == before
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_masks_of_a_part_or_of_a_larger_model_are_refused() -> None:
    inner = nn.Sequential(conv())
    for model, name, has in [(inner, "model.0.weight", "0.weight"), (Inside(inner), "0.weight", "model.0.weight")]:
        masks = {name: torch.zeros(4, 4, 3, 3)}
        measures: list[Callable[[], object]] = [
            lambda model=model, masks=masks: estimate_speedup(model, masks, IMAGES, repeats=1),  # type: ignore[misc]  # of one model
            lambda model=model, masks=masks: count_flops(model, masks, IMAGES),  # type: ignore[misc]  # of one model
            lambda model=model, masks=masks: count_bytes(model, masks),  # type: ignore[misc]  # of one model
        ]
        for measure in measures:
            with pytest.raises(ValueError, match=rf"one of '{name}', which .* Cure: .* its parameters are {has}"):
                measure()


def test_one_name_of_a_tied_weight_is_enough_and_two_must_agree() -> None:
    model, mask = Tied(), torch.zeros(4, 4, 3, 3)
    mask[0] = 1
    for masks in ({"a.weight": mask}, {"b.weight": mask}, {"a.weight": mask, "b.weight": mask.bool()}):
        flops = count_flops(model, masks, IMAGES)
        assert flops.sparse == flops.dense / 4
    with pytest.raises(ValueError, match=r"one mask of a tied parameter; got another one for b.weight. Cure"):
        count_flops(model, {"a.weight": mask, "b.weight": 1 - mask}, IMAGES)


def test_weights_that_pytorch_prunes_are_inactive_where_they_are_zero() -> None:
    model = nn.Sequential(conv())
    mask = torch.zeros(4, 4, 3, 3)
    mask[0] = 1
    nn.utils.prune.custom_from_mask(model[0], "weight", mask)
    flops = count_flops(model, None, IMAGES)
    assert flops.sparse == flops.dense / 4
    assert estimate_speedup(model, None, IMAGES, repeats=1).sparse == pytest.approx(4)
