# /// script
# dependencies = [
#     "timm==1.0.31", "pytorch-optimizer==4.1.0", "torchao==0.18.0", "lion-pytorch==0.2.5", "bitsandbytes==0.50.2",
# ]
# ///
"""What is read as momentum of the optimizers of real packages, compared with what it should be, step by step.

`python compat/optimizers.py` installs the packages in an environment of its own and writes
`compat/results/optimizers.md`: for every optimizer that takes a step on a CPU, what is read, how many of the tenth of
all weights with the largest momentum it finds, and whether zeros and budget hold in every step.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_sparse.network import SparseNetwork

HERE = Path(__file__).parent
STEPS, EVERY, LR = 16, 4, 1e-3
# Arguments without a default; optimizers that are told which weights are matrices; those that need second derivatives.
EXPECTED = {"num_iterations": 100, "total_steps": 100, "num_data": 128}
GROUPED = {"AdaGO", "AdaMuon", "DistributedMuon", "Muon", "MuonClip", "NorMuon"}
SECOND_ORDER = {"Adahessian", "AdaHessian", "SophiaH"}
Build = Callable[[nn.Module], torch.optim.Optimizer]


def of_timm() -> Iterator[tuple[str, Build]]:
    """Return every optimizer in timm's registry but those of other packages, and some variants."""
    import timm.optim

    for name in timm.optim.list_optimizers(exclude_filters=["bnb*", "fused*"]):
        yield name, lambda model, name=name: timm.optim.create_optimizer_v2(model, opt=name, lr=LR)
    yield "rmsproptf, momentum=0", lambda model: timm.optim.RMSpropTF(model.parameters(), LR, momentum=0.0)
    yield "lookahead_adamw", lambda model: timm.optim.create_optimizer_v2(model, opt="lookahead_adamw", lr=LR)


def of_pytorch_optimizer() -> Iterator[tuple[str, Build]]:
    """Return every optimizer in the list of pytorch-optimizer that isn't PyTorch's own, and two wrappers."""
    import pytorch_optimizer

    for kind in pytorch_optimizer.optimizer.OPTIMIZER_LIST:
        if kind.__module__.startswith("torch."):
            continue

        def build(model: nn.Module, kind: Any = kind) -> torch.optim.Optimizer:
            taken = inspect.signature(kind).parameters
            options = {key: value for key, value in EXPECTED.items() if key in taken}
            matrices = [parameter for parameter in model.parameters() if parameter.dim() == 2]
            others = [parameter for parameter in model.parameters() if parameter.dim() != 2]
            split = [{"params": matrices, "use_muon": True}, {"params": others, "use_muon": False}]
            given: Any = model if "model" in taken else model.parameters()
            if kind.__name__ == "SpectralSphere":
                given = matrices
            elif kind.__name__ in GROUPED:
                given = split
            optimizer: torch.optim.Optimizer = kind(given, **options)
            return optimizer

        yield kind.__name__, build
    yield "Lookahead(AdamW)", lambda model: pytorch_optimizer.Lookahead(torch.optim.AdamW(model.parameters(), LR))


def of_torchao() -> Iterator[tuple[str, Build]]:
    """Return the optimizers of torchao with states in fewer bits."""
    import torchao.optim

    for name in ("Adam8bit", "AdamW8bit", "Adam4bit", "AdamW4bit", "AdamFp8", "AdamWFp8"):
        yield name, lambda model, name=name: getattr(torchao.optim, name)(model.parameters(), lr=LR)


def of_lion_pytorch() -> Iterator[tuple[str, Build]]:
    """Return the versions of Lion in lion-pytorch."""
    from lion_pytorch import cautious_lion, foreach, lion_pytorch

    for module in (lion_pytorch, foreach, cautious_lion):
        name = f"{module.__name__.rpartition('.')[2]}.Lion"
        yield name, lambda model, module=module: module.Lion(model.parameters(), lr=LR)


def of_bitsandbytes() -> Iterator[tuple[str, Build]]:
    """Return the optimizers of bitsandbytes."""
    import bitsandbytes.optim

    for name, kind in vars(bitsandbytes.optim).items():
        if inspect.isclass(kind) and issubclass(kind, torch.optim.Optimizer):
            options = {"lr": LR, **({"momentum": 0.9} if "momentum" in inspect.signature(kind).parameters else {})}
            yield name, lambda model, kind=kind, options=options: kind(model.parameters(), **options)


ALL: dict[str, Callable[[], Iterator[tuple[str, Build]]]] = {
    "timm": of_timm,
    "pytorch-optimizer": of_pytorch_optimizer,
    "torchao": of_torchao,
    "lion-pytorch": of_lion_pytorch,
    "bitsandbytes": of_bitsandbytes,
}


def expected(read: str, steps: list[tuple[Tensor, Tensor]], group: dict[str, Any]) -> Tensor:
    """Return the momentum that a formula of `momentum_sources` stands for, from gradients and weights of each step."""
    beta, beta2 = group.get("betas", (0.9, 0.999))[:2]
    is_coupled = not (group.get("decoupled_weight_decay") or group.get("decoupled_decay"))
    decay = group.get("weight_decay", 0.0) if is_coupled and group.get("couples_decay") else 0.0
    mean = square = largest = torch.zeros_like(steps[0][0])
    for gradient, weight in steps:
        gradient = gradient + decay * weight
        if read == "0.9 * average + 0.1 * gradient":
            mean = 0.9 * mean + 0.1 * gradient
        elif "sqrt" in read:
            mean, square = beta * mean + (1 - beta) * gradient, beta2 * square + (1 - beta2) * gradient**2
        elif read == "exp_avg":  # Lion averages by its second factor
            factor = beta2 if group["is_lion"] else beta
            mean = factor * mean + (1 - factor) * gradient
        elif "exp_inf" in read:
            mean = beta * mean + (1 - beta) * gradient
            largest = torch.maximum(beta2 * largest, gradient.abs() + group["eps"])
        elif "lr_in_momentum" in group:  # RMSprop of TensorFlow: eps below the root, squares that begin at one
            square = square if len(mean.nonzero()) else torch.ones_like(mean)
            square = square + (1 - group["alpha"]) * (gradient**2 - square)
            mean = group["momentum"] * mean + gradient / (square + group["eps"]).sqrt()
        elif "alpha" in group:
            square = group["alpha"] * square + (1 - group["alpha"]) * gradient**2
            mean = group["momentum"] * mean + gradient / (square.sqrt() + group["eps"])
        else:
            mean = group["momentum"] * mean + (1 - group.get("dampening", 0)) * gradient
    if "exp_inf" in read:
        return mean / (largest + group["eps"])
    return mean / (square.sqrt() + group.get("eps", 1e-8)) if "sqrt" in read else mean


def overlap(found: Tensor, wanted: Tensor) -> float:
    """Return the part of the tenth of all positions with the largest values that two tensors share."""
    first, second = (set(each.abs().flatten().topk(each.numel() // 10).indices.tolist()) for each in (found, wanted))
    return len(first & second) / len(first)


def measure(build: Build) -> dict[str, Any]:
    """Train a small network and compare what is read of its middle layer; raises what the optimizer raises."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    network = SparseNetwork(model, 0.5, seed=0)
    optimizer = build(model)
    network.attach(optimizer)
    weight, steps = model[2].weight, []
    stray, budgets = 0, set()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward(create_graph=type(optimizer).__name__ in SECOND_ORDER)
        if len(steps) < step:
            steps.append((weight.grad.detach().clone(), weight.detach().clone()))
        return loss

    for step in range(1, STEPS + 1):
        inputs, labels = torch.randn(16, 16), torch.randint(4, (16,))
        optimizer.step(closure)
        masks = network.masks
        stray += sum(int(torch.count_nonzero(p[~masks[name]])) for name, p in model.named_parameters() if name in masks)
        budgets.add(sum(int(mask.sum()) for mask in masks.values()))
        if step % EVERY == 0:
            found = network._signals.momentum("2.weight")
            network.rewire("sparse_momentum", 0.2)
    (line, *_) = network.momentum_sources
    read = line.partition(": ")[2].partition(" of its state")[0].partition(", kept")[0]
    source = network._signals._sources["2.weight"]
    (group,) = (g for g in source.param_groups if any(p is weight for p in g["params"]))
    kind = type(source).__name__
    couples = kind in ("NAdamLegacy", "SGD", "RMSpropTF", "AdaBelief", "RMSprop", "NAdam", "RAdam", "Adamax", "Adam")
    wanted = expected(read, steps, {**group, "couples_decay": couples, "is_lion": kind == "Lion"})
    return {
        "class": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "read": read,
        "overlap": None if found is None else overlap(found, wanted),
        "zeros": stray == 0,
        "budget": len(budgets) == 1,
    }


def measure_all(package: str) -> list[dict[str, Any]]:
    """Measure all optimizers of a package."""
    found = []
    for name, build in ALL[package]():
        row: dict[str, Any] = {"package": package, "name": name}
        try:
            row |= measure(build)
        except Exception as error:  # whatever optimizers raise is shown
            row["error"] = f"{type(error).__name__}: {str(error).strip()}".splitlines()[0][:120]
        found.append(row)
        print(f"{package:20} {name:24} {row.get('error') or row.get('overlap')}", file=sys.stderr, flush=True)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of all optimizers as Markdown; those that read alike share a row."""
    versions = ", ".join(f"{name} {row['version']}" for name, row in {row["package"]: row for row in rows}.items())
    lines = [
        "# What is read as momentum of optimizers of other packages",
        "",
        f"`python compat/optimizers.py`, {date.today().isoformat()}, torch {version('torch')}, {versions}.",
        "",
        f"{STEPS} steps of a network of three layers, an update every {EVERY}. *Found*: of the tenth of all weights "
        "with the largest momentum, written out from the gradients of each step, the part that is among the largest "
        "tenth as read. *Holds*: inactive weights are zero and the number of active ones is the same after every step.",
        "",
        "| package | optimizers | what is read | found | holds |",
        "|---|---|---|---|---|",
    ]
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in (row for row in rows if "error" not in row):
        found = "none" if row["overlap"] is None else f"{row['overlap']:.0%}"
        holds = "yes" if row["zeros"] and row["budget"] else "no"
        groups.setdefault((row["package"], row["read"], found, holds), []).append(row["name"])
    for (package, read, found, holds), names in groups.items():
        lines.append(f"| {package} | {', '.join(names)} | `{read}` | {found} | {holds} |")
    lines += [
        "",
        "Not run, with what they or the callback raise:",
        "",
        "| package | optimizer | error |",
        "|---|---|---|",
    ]
    lines += [f"| {r['package']} | {r['name']} | {r['error'].replace('|', ' ')} |" for r in rows if "error" in r]
    return "\n".join([*lines, ""])


def main() -> int:
    """Measure, in an environment that has the packages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="*", choices=[*ALL, []], help=f"of {', '.join(ALL)}; default: all")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of the table")
    parser.add_argument("--environments", type=Path, default=HERE / "environments", help="folder to install into")
    parser.add_argument("--here", action="store_true", help="measure in this environment, which has the packages")
    arguments = parser.parse_args()
    if not arguments.here:
        from environments import environment, pins

        python = environment("optimizers", pins(Path(__file__)), arguments.environments.resolve())
        search = os.pathsep.join((str(HERE.parent), str(HERE)))
        command = [str(python), __file__, *arguments.packages, "--here", "--results", str(arguments.results)]
        return subprocess.run(command, env={**os.environ, "PYTHONPATH": search}).returncode
    warnings.simplefilter("ignore")
    record = arguments.results / "optimizers.json"
    rows = json.loads(record.read_text()) if record.exists() else []
    for package in arguments.packages or ALL:
        measured = [{**row, "version": version(package)} for row in measure_all(package)]
        rows = [row for name in ALL for row in (measured if name == package else rows) if row["package"] == name]
        record.write_text(json.dumps(rows, indent=1) + "\n")
    (arguments.results / "optimizers.md").write_text(table(rows))
    print(table(rows))
    return (
        0
        if all(row.get("overlap") == 1 and row["zeros"] and row["budget"] for row in rows if "error" not in row)
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
