"""How often a call of a layer multiplies each weight, told by the shapes of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

_ATTENTION = ("query", "key", "value")
# Which of these a weight of attention is multiplied with; of those stacked in one weight, each third with its own.
_FACTORS = {
    "in_proj_weight": _ATTENTION,
    "q_proj_weight": ("query",),
    "k_proj_weight": ("key",),
    "v_proj_weight": ("value",),
    "out_proj.weight": ("query",),
}


def products(
    module: nn.Module, local: str, axes: int, arguments: Sequence[Any], options: Mapping[str, Any], output: Any
) -> Fraction:
    """Return how many multiplications each weight of a layer took part in, in one call, for all examples together.

    Of a convolution it is the number of positions of its output map (of a transposed one, of its input map), borders
    counted as if padding were data; of a linear layer the number of vectors that it maps; of a recurrent layer the
    number of time steps, of which `PackedSequence` has only those that are computed; of attention the number of queries
    for the weights of queries and outputs, of keys and values for theirs (the mean, where one weight has all three). An
    embedding counts as the linear layer that it stands for: once per index. Of another module a weight with kernel axes
    counts as a convolution's, one without as a linear layer's.

    Args:
        module: The layer.
        local: Name of the weight in it.
        axes: Number of the weight's dimensions beyond two, those of a kernel.
        arguments: Positional arguments of the call.
        options: Arguments by name.
        output: Result of the call.

    >>> products(nn.Linear(3, 2), "weight", 0, [Tensor(5, 7, 3)], {}, Tensor(5, 7, 2))
    Fraction(35, 1)
    """
    if isinstance(module, nn.MultiheadAttention):
        return _products_of_attention(local, {**dict(zip(_ATTENTION, arguments, strict=False)), **options})
    source, result = _first_tensor([*arguments, *options.values()]), _first_tensor([output])
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return Fraction(0 if source is None else source.numel())
    if isinstance(module, nn.Bilinear):
        return _vectors(result)
    if axes:
        maps = source if isinstance(module, _ConvTransposeNd) else result
        return _vectors(maps, -1 - axes if maps is not None and maps.dim() > axes else -1)
    return _vectors(result if source is None else source)


def examples(module: nn.Module, axes: int, arguments: Sequence[Any], options: Mapping[str, Any]) -> int:
    """Return how many examples a layer got in one call: the size of the batch dimension, 1 where there is none.

    Args:
        module: The layer.
        axes: Number of its weight's dimensions beyond two.
        arguments: Positional arguments of the call.
        options: Arguments by name.

    >>> examples(nn.Conv2d(3, 8, 3), 2, [Tensor(16, 3, 9, 9)], {})
    16
    """
    values = [*arguments, *options.values()]
    if values and isinstance(values[0], nn.utils.rnn.PackedSequence):
        return int(values[0].batch_sizes[0])
    source = _first_tensor(values)
    own = 1 + axes  # dimensions of one example
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        own = 0
    elif isinstance(module, nn.Bilinear):
        own = 1
    elif isinstance(module, (nn.RNNBase, nn.MultiheadAttention)):
        own = 2
    if source is None or source.dim() <= own:
        return 1
    return int(source.shape[0 if getattr(module, "batch_first", True) else 1])


def _products_of_attention(local: str, given: Mapping[str, Any]) -> Fraction:
    tensors = [given.get(name) for name in _FACTORS.get(local, ("query",))]
    each = [_vectors(tensor) for tensor in tensors if isinstance(tensor, Tensor)]
    return sum(each, Fraction(0)) / max(1, len(each))


def _vectors(values: Tensor | None, axis: int = -1) -> Fraction:
    """Return how many vectors along an axis a tensor consists of."""
    if values is None or not values.dim() or not values.shape[axis]:
        return Fraction(0)
    return Fraction(values.numel() // values.shape[axis])


def _first_tensor(values: Iterable[Any]) -> Tensor | None:
    for value in values:
        inner = _first_tensor(value) if isinstance(value, (tuple, list)) else value
        if isinstance(inner, Tensor):
            return inner
    return None
