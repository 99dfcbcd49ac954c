"""All values of a module are kept and restored, whatever became of its buffers."""

from __future__ import annotations

import pytest
import torch
from round_training import model, of, values
from torch import nn

from lightning_sparse.rounds.module_values import ModuleValues
from lightning_sparse.testing.equality import differences
from lightning_sparse.validation.errors import InvalidValueError


class WithBuffers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("unsaved", torch.arange(3.0), persistent=False)
        self.register_buffer("empty", None)
        self.register_buffer("count", torch.tensor(7))


def test_parameters_and_buffers_have_their_bits_again() -> None:
    net = model()
    with torch.no_grad():
        of(net, "0").weight[0, 0] = -0.0
        of(net, "0").weight[0, 1] = torch.nan
    before, kept = values(net), ModuleValues.of(net)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            tensor.copy_(torch.ones_like(tensor))
    assert differences(values(net), before) != []
    kept.restore(net)
    assert differences(values(net), before) == []


def test_buffers_that_were_filled_reshaped_or_made_since_are_as_they_were() -> None:
    net = WithBuffers()
    kept = ModuleValues.of(net)
    net.empty, net.unsaved = torch.ones(2), torch.ones(5)
    net.register_buffer("late", torch.ones(1))
    kept.restore(net)
    assert net.empty is None
    assert net.unsaved.tolist() == [0.0, 1.0, 2.0]
    assert [*net._buffers] == ["unsaved", "empty", "count"]
    net.unsaved += 1
    kept.restore(net)
    assert net.unsaved.tolist() == [0.0, 1.0, 2.0]  # what was replaced is no alias of what is kept


def test_buffers_that_were_made_in_inference_mode_are_replaced() -> None:
    net = WithBuffers()
    kept = ModuleValues.of(net)
    with torch.inference_mode():
        net.count = torch.tensor(9)
    kept.restore(net)
    assert net.count.item() == 7
    assert not net.count.is_inference()


def test_restoring_writes_into_the_tensors_that_are_there() -> None:
    net = model()
    kept = ModuleValues.of(net)
    before = {name: tensor.data_ptr() for name, tensor in [*net.named_parameters(), *net.named_buffers()]}
    kept.restore(net)
    assert {name: tensor.data_ptr() for name, tensor in [*net.named_parameters(), *net.named_buffers()]} == before


def test_another_module_is_refused_and_stays_as_it_is() -> None:
    kept = ModuleValues.of(model())
    for other in (nn.Sequential(nn.Linear(6, 8)), nn.Sequential(*model(), nn.Linear(4, 4))):
        before = values(other)
        with pytest.raises(InvalidValueError, match="others, or of another shape"):
            kept.restore(other)
        assert differences(values(other), before) == []
