"""SNIP, slow and obvious: one list of all weights, sorted once, then gradient descent weight by weight.

Written from Lee et al. 2019 (Algorithm 1) and from the project's definition of what the paper leaves open (ties, layers
that would lose all weights), not from the package. Nothing of the package is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence


def masks(
    weights: Sequence[Sequence[float]], gradients: Sequence[Sequence[float]], keep: int, least: int
) -> list[list[bool]]:
    """Return which weights are kept.

    Args:
        weights: Weights of each layer, flat.
        gradients: Gradients of the loss by these, at initialization.
        keep: Number of weights to keep in all.
        least: Number of weights that each layer keeps, or all of them if it has fewer.
    """
    total = sum(abs(g * w) for layer in zip(weights, gradients, strict=True) for w, g in zip(*layer, strict=True))
    # The connection sensitivity of every weight, with the layer and the place that it belongs to.
    scored = [
        (abs(g * w) / total, number, place)
        for number, layer in enumerate(zip(weights, gradients, strict=True))
        for place, (w, g) in enumerate(zip(*layer, strict=True))
    ]
    ranking = sorted(scored, key=lambda entry: (-entry[0], entry[1], entry[2]))
    kept: set[tuple[int, int]] = set()
    for number in range(len(weights)):  # what each layer keeps in any case: its best
        own = [entry for entry in ranking if entry[1] == number]
        kept.update((number, place) for _, _, place in own[:least])
    for _, number, place in ranking:
        if len(kept) < keep:
            kept.add((number, place))
    return [[(number, place) in kept for place in range(len(layer))] for number, layer in enumerate(weights)]


def step(weight: list[float], mask: Sequence[bool], gradient: Sequence[float], lr: float) -> None:
    """Take a step of gradient descent in place; weights that were not kept are zero."""
    for place, kept in enumerate(mask):
        weight[place] = weight[place] - lr * gradient[place] if kept else 0.0
