"""Parts of a graph that can be chains: as many operations as possible, one after the other, with one result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import fx, nn

from lightning_sparse.execution.programs.operations import Operation, operation_of

# "averaged": means of maps that still have the shape of maps; "plain": examples in rows, as PyTorch has them.
Layout = Literal["maps", "features", "averaged", "plain"]


@dataclass(frozen=True)
class Run:
    """Operations of a graph that a chain can do.

    Attributes:
        operations: The operations by their nodes, in the graph's order.
        layouts: Layout of the value of each.
        inputs: Nodes whose values come from elsewhere, each with the layout that is needed.
        output: The one node whose value is needed elsewhere.
        only_users: Nodes whose values one operation of the run needs and nothing else, each with that operation's node.
    """

    operations: Mapping[fx.Node, Operation]
    layouts: Mapping[fx.Node, Layout]
    inputs: Mapping[fx.Node, Layout]
    output: fx.Node
    only_users: Mapping[fx.Node, fx.Node]


def find_runs(graph: fx.GraphModule, is_worth_it: Callable[[nn.Module], bool]) -> list[Run]:
    """Return the runs of a graph, none with a node of another.

    Args:
        graph: The graph.
        is_worth_it: Whether a module is one that a chain is made for; each run has one at least.
    """
    nodes = [node for node in graph.graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    needed = _needed_nodes(graph)
    place = {node: index for index, node in enumerate(graph.graph.nodes)}
    found: list[Run] = []
    start = 0
    while start < len(nodes):
        run = _longest(_grown(nodes[start:], graph, place, needed))
        if run is None or not any(each.module and is_worth_it(each.module) for each in run.operations.values()):
            start += 1
            continue
        found.append(run)
        start += len(run.operations)
    return found


@dataclass
class _Growing:
    operations: dict[fx.Node, Operation]
    layouts: dict[fx.Node, Layout]
    inputs: dict[fx.Node, Layout]


def _needed_nodes(graph: fx.GraphModule) -> set[fx.Node]:
    """Return the nodes whose values lead to the graph's result or to something that chains don't do."""
    needed: set[fx.Node] = set()
    for node in reversed(graph.graph.nodes):
        if operation_of(node, graph) is None or not needed.isdisjoint(node.users):
            needed.add(node)
    return needed


def _grown(
    nodes: Sequence[fx.Node], graph: fx.GraphModule, place: Mapping[fx.Node, int], needed: set[fx.Node]
) -> _Growing:
    """Return all operations from the first node on that have a layout."""
    found = _Growing({}, {}, {})
    for node in nodes:
        operation = operation_of(node, graph) if node in needed else None
        if operation is None or (operation.in_place and not _may_overwrite(node, operation, place, found)):
            break
        layout = _needed(operation, found)
        if layout is None:
            break
        for each in operation.inputs:
            if each not in found.operations and found.inputs.setdefault(each, layout) != layout:
                return found
        found.operations[node] = operation
        found.layouts[node] = _result(operation, layout)
    return found


# Operations whose result may be another name of their input.
_ALIASES = ("identity", "flatten")


def _may_overwrite(node: fx.Node, operation: Operation, place: Mapping[fx.Node, int], found: _Growing) -> bool:
    """Tell whether nobody sees that a value is not overwritten: it is a run's own, and isn't used later."""
    origin = operation.inputs[0]
    while origin in found.operations and found.operations[origin].kind in _ALIASES:
        origin = found.operations[origin].inputs[0]
    names = [origin]
    for name in names:  # which grows
        if name not in found.operations:
            return False
        for user in name.users:
            if user is not node and (user not in found.operations or place[user] > place[node]):
                return False
            if user is not node and found.operations[user].kind in _ALIASES:
                names.append(user)
    return True


def _needed(operation: Operation, found: _Growing) -> Layout | None:
    """Return the layout that an operation needs its inputs in; None if they don't have it, or there is none."""
    given = {found.layouts[each] for each in operation.inputs if each in found.layouts}
    kind = operation.kind
    if kind in ("convolution", "normalization", "pool", "average"):
        return "maps" if given <= {"maps"} else None
    if kind == "linear":
        return "features" if given <= {"features", "plain"} else None
    if kind == "add":
        return "maps" if given == {"maps"} else None
    if kind == "relu" and given == {"features"}:
        before = operation.inputs[0]
        follows = found.operations[before].kind == "linear" and len(before.users) == 1
        return "features" if follows else None
    if kind == "relu":
        return "maps" if given == {"maps"} else None
    return next(iter(given), None)  # flatten and identity have one input


def _result(operation: Operation, needed: Layout) -> Layout:
    if operation.kind == "average":
        return "averaged"
    if operation.kind == "flatten":
        after: dict[Layout, Layout] = {"maps": "features", "averaged": "plain"}
        return after.get(needed, needed)
    return needed


def _longest(grown: _Growing) -> Run | None:
    """Return the longest beginning whose values are needed elsewhere in one node only, as an ordinary tensor."""
    nodes = list(grown.operations)
    for end in range(len(nodes), 0, -1):
        chosen = set(nodes[:end])
        outputs = [node for node in nodes[:end] if any(user not in chosen for user in node.users)]
        if len(outputs) == 1 and grown.layouts[outputs[0]] != "averaged":
            operations = {node: grown.operations[node] for node in nodes[:end]}
            used = {each for operation in operations.values() for each in operation.inputs}
            inputs = {node: layout for node, layout in grown.inputs.items() if node in used}
            alone = {node: next(iter(node.users)) for node in operations if len(node.users) == 1}
            only_users = {node: user for node, user in alone.items() if user in operations}
            return Run(operations, grown.layouts, inputs, outputs[0], only_users)
    return None
