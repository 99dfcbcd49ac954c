"""Training a network with replaced layers: by a Lightning Trainer, and in several processes."""

from __future__ import annotations

import copy
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gates import gated
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from lightning_sparse import SparseMomentumCallback
from lightning_sparse.execution import replaced_forward
from lightning_sparse.testing.callbacks.training import At, ShufflingLoader, TinyModule, fit

fsdp = pytest.importorskip("torch.distributed.fsdp")


class Gated(TinyModule):
    """Trains gates on its first and last layer, which it registers itself."""

    def __init__(self, replaces: bool) -> None:
        super().__init__()
        self.gates = nn.ParameterList()
        for layer in (self.net[0], self.net[3]) if replaces else ():
            gate, _ = gated(layer)
            self.gates.append(gate.values)


@pytest.mark.parametrize("replaces", [True, False])
def test_masked_weights_of_replaced_layers_stay_zero_and_checkpoints_have_plain_names(
    tmp_path: Path, replaces: bool
) -> None:
    module, sparse = Gated(replaces), SparseMomentumCallback(density=0.5)
    start = [gate.clone() for gate in module.gates]
    strays: list[int] = []

    def look(*_: object) -> None:
        assert sparse.network is not None
        named = dict(module.named_parameters())
        strays.append(sum(int(named[name][~mask].count_nonzero()) for name, mask in sparse.network.masks.items()))

    trainer = fit(sparse, At("on_train_batch_end", look), module=module)
    assert strays == [0] * 9
    assert sum(change.pruned for change in sparse.history[0].layers.values()) > 0
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    saved = torch.load(tmp_path / "one.ckpt", weights_only=True)
    gates = {f"gates.{index}" for index in range(2 * replaces)}
    assert saved["state_dict"].keys() == TinyModule().state_dict().keys() | gates
    assert all(not torch.equal(*pair) for pair in zip(module.gates, start, strict=True))
    plain = TinyModule()
    plain.load_state_dict({name: value for name, value in saved["state_dict"].items() if name not in gates})
    inputs = next(iter(ShufflingLoader()))[0]
    assert torch.equal(plain.eval().net(inputs), module.eval().net(inputs)) == (not replaces)


def test_a_resumed_run_of_replaced_layers_is_exact(tmp_path: Path) -> None:
    whole, resumed = Gated(True), Gated(True)
    state = copy.deepcopy(whole.state_dict())
    resumed.load_state_dict(state)
    path = tmp_path / "5.ckpt"
    saving = At("on_train_batch_end", lambda run, _: run.save_checkpoint(path) if run.global_step == 5 else None)
    fit(SparseMomentumCallback(density=0.5, seed=1), saving, module=whole)
    fit(SparseMomentumCallback(density=0.5, seed=1), module=resumed, ckpt_path=str(path))
    expected, found = whole.state_dict(), resumed.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert not all(torch.equal(expected[name], state[name]) for name in expected)


INPUTS, PROCESSES = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), 2


class Network(nn.Module):
    """A gated layer after another one; the gate is a parameter of the network."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 2)
        self.gate = gated(self.second)[0].values

    def forward(self, inputs: Tensor) -> Any:
        return self.second(self.first(inputs))


def split(net: Network) -> nn.Module:
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in (net.first, net.second):
        fsdp.fully_shard(layer, mesh=mesh)
    return net


WRAPPERS: dict[str, Callable[[Network], nn.Module]] = {"DDP": DistributedDataParallel, "FSDP2": split}


def gradients(net: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
    net(inputs).square().mean().backward()
    named = {name.removeprefix("module."): parameter.grad for name, parameter in net.named_parameters()}
    return {name: getattr(grad, "full_tensor", lambda grad=grad: grad)() for name, grad in named.items()}


def in_a_process(rank: int, wrapper: str, folder: Path) -> None:
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder / 'group'}", rank=rank, world_size=PROCESSES)
    net = WRAPPERS[wrapper](Network())
    torch.save(gradients(net, INPUTS.chunk(PROCESSES)[rank]), folder / f"{rank}.pt")
    destroy_process_group()
    os._exit(0)  # at once: threads of the communication library don't outlive a fork well


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_gradients_of_replaced_layers_are_averaged_over_processes(tmp_path: Path, wrapper: str) -> None:
    if wrapper == "FSDP2" and not hasattr(torch.cpu.Stream, "record_event"):
        pytest.skip("FSDP2 of this PyTorch needs CUDA")
    net = Network()
    expected = gradients(net, INPUTS)
    processes = [
        multiprocessing.get_context("fork").Process(target=in_a_process, args=(rank, wrapper, tmp_path))
        for rank in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]
    # FSDP2 splits the layers alone, so that the gate's gradients are those of each process.
    averaged = {name: each for name, each in expected.items() if wrapper == "DDP" or name != "gate"}
    for rank in range(PROCESSES):
        torch.testing.assert_close({name: found[rank][name] for name in averaged}, averaged)
    handle = replaced_forward(net.second)
    assert handle is not None
    handle.remove()
    net.zero_grad()
    net(INPUTS).square().mean().backward()
    assert net.gate.grad is None
    assert net.second.weight.grad is not None
