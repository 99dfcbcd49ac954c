"""The weights of a model that names mean, which may differ by a prefix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

from lightning_sparse.selection.names import written_names
from lightning_sparse.selection.patterns import Pattern, name_list
from lightning_sparse.selection.weight import Weight
from lightning_sparse.validation.errors import InvalidValueError


def names_in_model(names: Iterable[str], weights: Sequence[Weight]) -> dict[str, str]:
    """Return the name in a model of each of those names that the model has.

    If the model has none of them as it is, they may have one prefix more or less than the model's names: those of a
    LightningModule and of the network in it, for instance.

    Args:
        names: Names of parameters, possibly with what wrappers add.
        weights: The parameters of the model; any name of a tied one will do.

    Raises:
        ValueError: If several prefixes are possible.

    >>> from torch import nn
    >>> layer = nn.Linear(2, 2)
    >>> names_in_model(["net.0.weight"], [Weight("0.weight", layer, layer.weight)])
    {'net.0.weight': '0.weight'}
    """
    known = {place.name: weight.name for weight in weights for place in weight.places}
    plain = written_names(list(names), list(known))
    if not any(name in known for name in plain.values()):
        plain = _with_prefix(plain, known)
    return {name: known[new] for name, new in plain.items() if new in known}


def _with_prefix(plain: dict[str, str], known: Iterable[str]) -> dict[str, str]:
    """Return names as they are with the one prefix, added or taken away, with which most are known; else unchanged."""
    known = dict.fromkeys(known)  # in the order of the model
    endings: dict[str, list[str]] = {}
    for name in known:
        for prefix, ending in _splits(name):
            endings.setdefault(ending, []).append(prefix)
    added = Counter(prefix for name in plain.values() for prefix in endings.get(name, ()))
    taken = Counter(prefix for name in plain.values() for prefix, ending in _splits(name) if ending in known)
    most = max([*added.values(), *taken.values()], default=0)
    longer = [{name: prefix + old for name, old in plain.items()} for prefix in _reaching(most, added)]
    shorter = [{name: old.removeprefix(prefix) for name, old in plain.items()} for prefix in _reaching(most, taken)]
    best = longer + shorter
    if len(best) > 1:
        examples = [name_list(list(each.values())[:1]) for each in best]
        raise InvalidValueError(
            expected="names of the model's parameters",
            got=f"names like {next(iter(plain.values()))!r}, which may mean {' or '.join(examples)}",
            cure="pass masks with the names that the model's parameters have",
        )
    return best[0] if best else plain


def _reaching(most: int, counts: Counter[str]) -> list[str]:
    return [prefix for prefix, count in counts.items() if count == most]


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """Yield a name's prefixes, with their dots, each with what follows it."""
    parts = name.split(".")
    for index in range(1, len(parts)):
        yield ".".join(parts[:index]) + ".", ".".join(parts[index:])


def matches_name(name: str, patterns: Iterable[Pattern]) -> bool:
    """Tell whether a glob on the names of parameters or layers means a parameter of this name."""
    globs = [pattern for pattern in patterns if isinstance(pattern, str)]
    return any(fnmatchcase(each, glob) for glob in globs for each in (name, name.rpartition(".")[0]))
