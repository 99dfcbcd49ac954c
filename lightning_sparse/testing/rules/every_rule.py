"""Properties of every rule, whether it scores weights or computes claims of layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_sparse.testing.contract import expect
from lightning_sparse.testing.equality import deep_copy, differences, first_few
from lightning_sparse.testing.evidence import evidence_of, layer, layers
from lightning_sparse.testing.randomness import global_states, seeded
from lightning_sparse.testing.rules.shards import works_on_parts_if_it_says_so
from lightning_sparse.topology.layer import SIGNALS, LayerView, signals_of

# None is the redistribution rule that lets each layer regrow what it lost.
Rule = Callable[[LayerView], Tensor | float] | None


def ask(rule: Rule, view: LayerView) -> Tensor | float | None:
    """Return a rule's answer for a layer; None if there is no rule."""
    return None if rule is None else rule(view)


def is_deterministic(rule: Rule) -> None:
    """Ask the same evidence, and the same state of the generator, the same answer."""
    for first, second in zip(layers(), layers(), strict=True):
        before, now = ask(rule, first), ask(rule, second)
        expect(
            not differences(before, now),
            f"the same answer to the same evidence of the layer {first.name}",
            f"{before} and then {now}",
            "keep no state in the rule, and draw from layer.generator only",
        )


def changes_none_of_its_inputs(rule: Rule) -> None:
    """Ask that weight, mask, momentum and gradient have the same bits afterwards."""
    for view in layers():
        before = deep_copy(evidence_of(view))
        ask(rule, view)
        changed = differences(evidence_of(view), before)
        expect(
            not changed,
            f"the layer {view.name} as it was before the rule looked at it",
            f"another {first_few(changed)}",
            "use operations that return a new tensor, abs() and not abs_()",
        )


def ignores_global_seeds(rule: Rule) -> None:
    """Ask the same answer whatever PyTorch, NumPy and Python were seeded with."""
    for first, second in zip(layers(), layers(), strict=True):
        with seeded(1):
            one = ask(rule, first)
        with seeded(2):
            other = ask(rule, second)
        expect(
            not differences(one, other),
            f"an answer for the layer {first.name} that doesn't depend on global seeds",
            f"{one} and {other} with different ones",
            "pass generator=layer.generator to what draws random numbers",
        )


def leaves_global_random_states_alone(rule: Rule) -> None:
    """Ask that a run's shuffling and dropout are the same with the rule as without."""
    for view in layers():
        with seeded(1):
            before = global_states()
            ask(rule, view)
            changed = sorted({place.split("/")[1] for place in differences(global_states(), before)})
        expect(
            not changed,
            "the global random states as they were",
            f"another one of {first_few(changed)}",
            "pass generator=layer.generator to what draws random numbers, and seed nothing",
        )


def needs_no_signals_but_those_it_declares(rule: Rule) -> None:
    """Ask the same answer where the signals that the rule doesn't declare are unknown."""
    unknown: dict[str, Any] = {signal: None for signal in SIGNALS if signal not in signals_of(rule)}
    for first, second in zip(layers(), layers(), strict=True):
        expect(
            not differences(ask(rule, first), ask(rule, replace(second, others=_declared(rule, second), **unknown))),
            f"the same answer for the layer {first.name} without {' and '.join(unknown)}, which nothing declares",
            "another one",
            "declare what the rule looks at, @uses('momentum') for instance",
        )


def _declared(rule: Rule, view: LayerView) -> dict[str, Tensor]:
    return {signal: values for signal, values in view.others.items() if signal in signals_of(rule)}


def serves_weights_in_any_memory_format(rule: Rule) -> None:
    """Ask the same answer for transposed and channels-last weights as for contiguous ones."""
    matrix, kernels = layer("(4, 3), transposed", (4, 3), 7, seed=5), layer("(3, 2, 2, 2)", (3, 2, 2, 2), 9, seed=6)
    strided = [(matrix, _transposed), (kernels, _channels_last)]
    for view, restride in strided:
        other = replace(view, generator=_same_state(view.generator), **_map(view, restride))
        plain, restrided = _number(ask(rule, view)), _number(ask(rule, other))
        expect(
            plain.shape == restrided.shape and torch.allclose(plain, restrided, rtol=1e-4),
            f"the same answer for the layer {view.name} whatever its memory format",
            f"{restrided} instead of {plain}",
            "use reshape(-1) and not view(-1), and no storage order",
        )


def _number(answer: Tensor | float | None) -> Tensor:
    return torch.as_tensor(0.0 if answer is None else answer).double()


def _map(view: LayerView, function: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {kind: function(values) for kind, values in evidence_of(view).items() if values is not None}


def _transposed(values: Tensor) -> Tensor:
    return values.t().contiguous().t()


def _channels_last(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last)


def _same_state(generator: torch.Generator) -> torch.Generator:
    return torch.Generator().set_state(generator.get_state())


# Pruning, redistribution and growth rules are checked for these.
RULE_PROPERTIES = (
    is_deterministic,
    changes_none_of_its_inputs,
    ignores_global_seeds,
    leaves_global_random_states_alone,
    needs_no_signals_but_those_it_declares,
    serves_weights_in_any_memory_format,
    works_on_parts_if_it_says_so,
)
