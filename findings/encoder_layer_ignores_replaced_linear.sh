#!/usr/bin/env bash
# PyTorch 2.14.1: nn.TransformerEncoderLayer with another computation in the place of one of its linear layers, as a
# sparse, quantized or low-rank layer is put there: a subclass of nn.Linear, or an instance with a `forward` of its own.
#
# One would guess: what the layer computes in training it computes in evaluation as well.
# Seen: it does with gradients enabled. In evaluation under `torch.no_grad()` its fast path reads the weights of the
# linear layers and calls none of them: outputs are those of the original layer, without a word. Forward hooks and
# torch's parametrizations are respected, as the fast path looks out for the former and reads the latter's weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6

cat >"$work/replaced.py" <<'PYTHON'
import torch
from torch import nn
from torch.nn.utils import parametrize


class Silent(nn.Linear):
    """Another computation than that of nn.Linear, one that is easy to see."""

    def forward(self, inputs):
        return torch.zeros_like(super().forward(inputs))


class Zeros(nn.Module):
    def forward(self, weight):
        return torch.zeros_like(weight)


def subclass(layer):
    silent = Silent(8, 16)
    silent.load_state_dict(layer.linear1.state_dict())
    layer.linear1 = silent


def instance(layer):
    original = layer.linear1.forward
    layer.linear1.forward = lambda inputs: torch.zeros_like(original(inputs))


def hook(layer):
    layer.linear1.register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))


def parametrization(layer):
    parametrize.register_parametrization(layer.linear1, "weight", Zeros())


inputs = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(1))
for replace in (subclass, instance, hook, parametrization):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    replace(layer)
    trained = layer.train()(inputs).detach()
    evaluated = layer.eval()(inputs).detach()
    with torch.no_grad():
        fast = layer(inputs)
    same = [torch.allclose(trained, other, atol=1e-5) for other in (evaluated, fast)]
    print(f"{replace.__name__}: evaluation as in training {same[0]}, under no_grad {same[1]}")
PYTHON

seen=$(OMP_NUM_THREADS=1 "$work/env/bin/python" "$work/replaced.py" 2>/dev/null)
printf '%s\n' "$seen"
expected='subclass: evaluation as in training True, under no_grad False
instance: evaluation as in training True, under no_grad False
hook: evaluation as in training True, under no_grad True
parametrization: evaluation as in training True, under no_grad True'
[ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
echo "as described"
