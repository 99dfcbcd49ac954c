#!/usr/bin/env bash
# pytorch-optimizer 4.1.0: what is in `parameter.grad` after `optimizer.step()`.
#
# One would guess: a step reads gradients and writes weights; whoever looks at `parameter.grad` after it (a hook behind
# the step, a callback at the end of the batch, an average of gradients) sees what the backward pass left there.
# Seen: 8 of the 111 classes that take a plain step here leave something else in it: gradients that are clipped,
# normalized, centralized, or have the weight decay or an average added in place. torch.optim has none that does so with
# its default options.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 pytorch-optimizer==4.1.0

cat >"$work/steps.py" <<'PYTHON'
import inspect
import warnings

import torch
from pytorch_optimizer import get_supported_optimizers, load_optimizer

warnings.simplefilter("ignore")


def overwrites(make):
    """Tell whether a step leaves other gradients than it was given; None if such a plain step isn't possible."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    try:
        optimizer = make(model.parameters())
        model(torch.randn(16, 8)).square().mean().backward()
        before = [parameter.grad.clone() for parameter in model.parameters()]
        optimizer.step()
    except Exception:  # it needs a closure, other arguments, or a second derivative
        return None
    return any(not torch.equal(parameter.grad, old) for parameter, old in zip(model.parameters(), before))


found = {name: overwrites(lambda weights: load_optimizer(name)(weights, lr=1e-3)) for name in get_supported_optimizers()}
print(sum(each is not None for each in found.values()), "classes of pytorch-optimizer take a plain step;")
print("of these overwrite gradients:", *sorted(name for name, each in found.items() if each))
own = {
    kind.__name__: overwrites(lambda weights: kind(weights, lr=1e-3))
    for kind in vars(torch.optim).values()
    if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}
print("of torch.optim overwrite gradients:", *[name for name, each in own.items() if each])
PYTHON

seen=$(OMP_NUM_THREADS=1 "$work/env/bin/python" "$work/steps.py" 2>/dev/null)
printf '%s\n' "$seen"
expected='111 classes of pytorch-optimizer take a plain step;
of these overwrite gradients: adalite grokfastadamw lars novograd ranger schedulefreeadamw scionlight stablespam
of torch.optim overwrite gradients:'
[ "$seen" = "$expected" ] || { echo "CHANGED"; exit 1; }
echo "as described"
