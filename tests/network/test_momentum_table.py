"""docs/optimizers.md says what is read of each optimizer, and that is what its definition gives for real gradients."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_sparse.network import SparseNetwork, momentum_families

DOCUMENT = Path(__file__).parents[2] / "docs" / "optimizers.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
AVERAGE = "0.9 * average + 0.1 * gradient"
LR, STEPS = 0.01, 20


class Step(NamedTuple):
    """A gradient, and the weight before the step that it was used for."""

    gradient: Tensor
    weight: Tensor


Definition = Callable[[list[Step], dict[str, Any]], Tensor]


def average(steps: list[Step], options: dict[str, Any]) -> Tensor:
    found = torch.zeros_like(steps[0].gradient)
    for step in steps:
        found = 0.9 * found + 0.1 * step.gradient
    return found


def decayed(step: Step, options: dict[str, Any]) -> Tensor:
    """Return the gradient as the optimizer sees it."""
    sign = -1 if options.get("maximize") else 1
    is_decoupled = options.get("decoupled_weight_decay", False)
    return sign * step.gradient + (0 if is_decoupled else options.get("weight_decay", 0)) * step.weight


def summed(steps: list[Step], options: dict[str, Any]) -> Tensor:
    found = decayed(steps[0], options)
    for step in steps[1:]:
        found = options["momentum"] * found + (1 - options.get("dampening", 0)) * decayed(step, options)
    return found


def normalized(steps: list[Step], options: dict[str, Any]) -> Tensor:
    mean = square = torch.zeros_like(steps[0].gradient)
    for step in steps:
        gradient = decayed(step, options)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
    return mean / (square.sqrt() + 1e-8)


def normalized_by_rows(steps: list[Step], options: dict[str, Any]) -> Tensor:
    """Return moments of rows, each from the steps in which it has a gradient."""
    mean = square = torch.zeros_like(steps[0].gradient)
    for step in steps:
        rows = step.gradient.any(1, keepdim=True)
        mean = torch.where(rows, 0.9 * mean + 0.1 * step.gradient, mean)
        square = torch.where(rows, 0.999 * square + 0.001 * step.gradient**2, square)
    return mean / (square.sqrt() + 1e-8)


def by_largest(steps: list[Step], options: dict[str, Any]) -> Tensor:
    mean = largest = torch.zeros_like(steps[0].gradient)
    for step in steps:
        gradient = decayed(step, options)
        mean, largest = 0.9 * mean + 0.1 * gradient, torch.maximum(0.999 * largest, gradient.abs() + 1e-8)
    return mean / (largest + 1e-8)


def of_ratios(steps: list[Step], options: dict[str, Any]) -> Tensor:
    mean = square = buffer = torch.zeros_like(steps[0].gradient)
    for step in steps:
        gradient = decayed(step, options)
        square, mean = 0.99 * square + 0.01 * gradient**2, 0.99 * mean + 0.01 * gradient
        variance = square - mean**2 if options.get("centered") else square
        buffer = 0.9 * buffer + gradient / (variance.sqrt() + 1e-8)
    return buffer


def smoothed(steps: list[Step], options: dict[str, Any]) -> Tensor:
    found = torch.zeros_like(steps[0].gradient)
    for step in steps:
        found = 0.95 * found + 0.05 * step.gradient
    return found


# What each optimizer of PyTorch is compared with, with momentum and without.
DEFINITIONS: dict[tuple[str, float], Definition] = {
    ("ASGD", 0): average,
    ("Adadelta", 0): average,
    ("Adafactor", 0): average,
    ("Adagrad", 0): average,
    ("Adam", 0): normalized,
    ("AdamW", 0): lambda steps, options: normalized(steps, {**options, "weight_decay": 0}),
    ("Adamax", 0): by_largest,
    ("LBFGS", 0): average,
    ("Muon", 0): smoothed,
    ("NAdam", 0): normalized,
    ("RAdam", 0): normalized,
    ("RMSprop", 0): average,
    ("RMSprop", 0.9): of_ratios,
    ("Rprop", 0): average,
    ("SGD", 0): average,
    ("SGD", 0.9): summed,
    ("SparseAdam", 0): normalized_by_rows,
}
# Each alone, where the class has it.
VARIANTS: dict[str, Any] = {
    "foreach": True,
    "fused": True,
    "amsgrad": True,
    "maximize": True,
    "centered": True,
    "nesterov": True,
    "dampening": 0.3,
    "momentum_decay": 0.01,
    "weight_decay": 0.1,
    "decoupled_weight_decay": True,
    "line_search_fn": "strong_wolfe",
    "adjust_lr_fn": "match_rms_adamw",
}
# Of these PyTorch needs an accelerator, or weights that are computed.
ELSEWHERE = {"capturable": True, "differentiable": True}
CLASSES = sorted(name for name, kind in vars(torch.optim).items() if inspect.isclass(kind) and name != "Optimizer")


def parameters_of(name: str) -> set[str]:
    return set(inspect.signature(getattr(torch.optim, name)).parameters)


def options_of(name: str, momentum: float, variants: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the options of each variant of a class, at first those of none."""
    taken = parameters_of(name)
    always = {"momentum": momentum} if "momentum" in taken and name != "Muon" else {}
    found: list[dict[str, Any]] = [always, *({**always, key: value} for key, value in variants.items() if key in taken)]
    impossible = {"nesterov", "dampening"} if (name, momentum) == ("SGD", 0) else set()
    return [options for options in found if impossible.isdisjoint(options)]


def rows() -> dict[tuple[str, float], list[str]]:
    """Return the cells of the document's table of PyTorch's optimizers, by class and momentum."""
    found = {}
    for line in TEXT.splitlines():
        if match := re.match(r"\| `(\w+)`(?: with `momentum=([\d.]+)`)? \|", line):
            found[match[1], float(match[2] or 0)] = [cell.strip() for cell in line.strip("|").split("|")]
    return found


class Trained(NamedTuple):
    """A small network after some steps."""

    network: SparseNetwork
    steps: list[Step]


def train(build: Callable[[list[nn.Parameter]], Optimizer], is_sparse: bool = False) -> Trained:
    """Train three layers, all of them masked; the steps are those of the middle one's weight."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(*sizes, bias=False) for sizes in ((8, 32), (32, 32), (32, 4)))).double()
    network = SparseNetwork(model, 0.5, seed=0)
    optimizer = build(list(model.parameters()))
    network.attach(optimizer)
    weight, steps = model[1].weight, []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model[2](model[1](model[0](inputs).relu()).relu()), labels)
        loss.backward()
        for parameter in model.parameters() if is_sparse else ():
            parameter.grad = parameter.grad.to_sparse(1)
        assert weight.grad is not None
        evaluated.append(weight.grad.to_dense().clone())
        return loss

    for _ in range(STEPS):
        evaluated: list[Tensor] = []
        inputs, labels = torch.randn(16, 8, dtype=torch.float64), torch.randint(4, (16,))
        before = weight.detach().clone()
        optimizer.step(closure)  # type: ignore[arg-type]  # one that returns a tensor
        steps.append(Step(evaluated[0], before))  # a line search evaluates again, elsewhere
    return Trained(network, steps)


def top(values: Tensor) -> set[int]:
    """Return the positions of the tenth of all values that are largest."""
    return set(values.abs().flatten().topk(values.numel() // 10).indices.tolist())


CASES = [
    pytest.param(name, momentum, options, id="-".join([name, *map(str, options.items())]))
    for name, momentum in DEFINITIONS
    if name in CLASSES
    for options in options_of(name, momentum, VARIANTS)
]


@pytest.mark.parametrize(("name", "momentum", "options"), CASES)
def test_what_is_read_is_the_definition_and_the_document_says_which(
    name: str, momentum: float, options: dict[str, Any]
) -> None:
    kind = getattr(torch.optim, name)
    network, steps = train(lambda parameters: kind(parameters, lr=LR, **options), is_sparse=name == "SparseAdam")
    found = network._signals.momentum("1.weight")
    assert found is not None
    assert top(found) == top(DEFINITIONS[name, momentum](steps, options))
    _, read, _, variants = rows()[name, momentum]
    (line,) = network.momentum_sources
    assert f": {read.strip('`')} " in line.replace(",", " ")
    assert set(options) - {"momentum"} <= set(variants.replace("`", "").split(", "))


def test_with_another_definition_the_largest_are_others() -> None:
    network, steps = train(lambda parameters: torch.optim.Adam(parameters, lr=LR))
    found = network._signals.momentum("1.weight")
    assert found is not None
    assert top(found) != top(average(steps, {}))
    assert len(top(found)) == 102


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in CLASSES for option in ELSEWHERE if option in parameters_of(name)],
)
def test_what_needs_an_accelerator_or_computed_weights_does_not_run_here(name: str, option: str) -> None:
    kind = getattr(torch.optim, name)
    with pytest.raises((RuntimeError, AssertionError)):
        train(lambda parameters: kind(parameters, lr=LR, **{option: True}))


def test_the_document_has_every_optimizer_of_the_installed_release_and_every_family() -> None:
    assert set(CLASSES) <= {name for name, _ in DEFINITIONS}
    assert set(rows()) == set(DEFINITIONS)
    missing = [path for path in momentum_families._FAMILIES if f"`{path.removeprefix('torch.optim.')}`" not in TEXT]
    known = {"sgd.SGD", "_muon.Muon", *(path.removeprefix("torch.optim.") for path in missing)}
    assert [path for path in known if path.rpartition(".")[2] not in {name for name, _ in rows()}] == []


def test_every_row_names_the_options_on_which_its_scale_depends() -> None:
    for path, family in momentum_families._FAMILIES.items():
        name = path.rpartition(".")[2]
        described = [cells for (kind, _), cells in rows().items() if kind == name and "average" not in cells[1]]
        for cells in described if path.startswith("torch.") else []:
            wanted = set(family.options) - ({"weight_decay"} if family.decoupled else set())
            assert set(cells[2].replace("`", "").split(", ")) == wanted
