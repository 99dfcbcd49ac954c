#!/usr/bin/env bash
# PyTorch 2.14.1, torch.fx: a Tracer whose is_leaf_module chooses modules by their parameters, such as those whose weight
# has a mask.
#
# One would guess: is_leaf_module gets modules as they are, as its type says; only the forward pass sees symbols.
# Seen: within it m.weight is a Proxy. Its identity is that of no parameter, so that no module is found among those chosen
# before, and all are traced through; and each look at a weight leaves a get_attr node, used by nothing, in the graph, of
# modules that stay calls, too. Choosing the modules before the trace, and comparing m itself, does what was meant.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.3.5

cat >"$work/leaf.py" <<'PYTHON'
from torch import fx, nn

layers = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
weights = {id(layer.weight) for layer in layers}
chosen = [layer for layer in layers if id(layer.weight) in weights]


class ByWeight(fx.Tracer):
    def is_leaf_module(self, m, module_qualified_name):
        print(type(m.weight).__name__, end=" ")
        return id(m.weight) in weights


class LooksAtWeight(fx.Tracer):
    def is_leaf_module(self, m, module_qualified_name):
        return m.weight is not None and any(m is each for each in chosen)


class ByModule(fx.Tracer):
    def is_leaf_module(self, m, module_qualified_name):
        return any(m is each for each in chosen)


for tracer in (ByWeight, LooksAtWeight, ByModule):
    nodes = tracer().trace(layers).nodes
    targets = {op: [node.target for node in nodes if node.op == op] for op in ("call_module", "get_attr")}
    unused = [node.target for node in nodes if node.op == "get_attr" and not node.users]
    print(f"{tracer.__name__}: calls {targets['call_module']}, attributes {targets['get_attr']}, unused {unused}")
PYTHON

seen=$("$work/env/bin/python" "$work/leaf.py" 2>/dev/null)
printf '%s\n' "$seen"
expected="Proxy Proxy ByWeight: calls [], attributes ['0.weight', '0.bias', '1.weight', '1.bias'], unused []
LooksAtWeight: calls ['0', '1'], attributes ['0.weight', '1.weight'], unused ['0.weight', '1.weight']
ByModule: calls ['0', '1'], attributes [], unused []"
[ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
echo "as described"
