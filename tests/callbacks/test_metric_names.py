"""Names under which the callbacks log."""

from __future__ import annotations

import pytest
import torch
from tiny_training import CLASSES, TinyModule, fit
from torch import nn

from lightning_sparse.callbacks import ClassSpecializationCallback, GradientFlowCallback, SparseTrainingCallback
from lightning_sparse.callbacks.probing.logging import under_old_names


class Module(TinyModule):
    num_classes = CLASSES

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.net(images)
        return scores


def names_of(**options: bool) -> set[str]:
    sparse, flow = SparseTrainingCallback(density=0.5, schedule="constant", **options), GradientFlowCallback(**options)
    run = fit(sparse, flow, ClassSpecializationCallback(layers=nn.ReLU), module=Module())
    roots = ("sparsity", "gradient_flow", "specialization")
    return {name for name in run.callback_metrics if name.partition("/")[0] in roots}


def test_no_metric_is_a_folder_of_others() -> None:
    names = names_of()
    assert {"sparsity/density", "sparsity/layer_density/net.0.weight", "sparsity/layer_share/net.0.weight"} <= names
    assert {"gradient_flow/egf_l1", "gradient_flow/layer_egf_l1/net.0.weight"} <= names
    assert any(name.startswith("specialization/") for name in names)
    assert not [name for name in names if any(other.startswith(f"{name}/") for other in names)]


def test_old_names_are_logged_by_option_and_warned_of() -> None:
    with pytest.warns(DeprecationWarning, match="old_metric_names will be removed"):
        names = names_of(old_metric_names=True)
    assert {"sparsity/density/net.0.weight", "sparsity/share/net.0.weight"} <= names
    assert {"gradient_flow/egf_l1", "gradient_flow/egf_l1/net.0.weight"} <= names
    assert not [name for name in names if "layer_" in name]


def test_only_names_of_layers_have_old_ones() -> None:
    metrics = {"sparsity/density": 1.0, "gradient_flow/a/egf_l1": 2.0, "gradient_flow/a/layer_egf_l1/x": 3.0}
    assert under_old_names(metrics) == {
        "sparsity/density": 1.0,
        "gradient_flow/a/egf_l1": 2.0,
        "gradient_flow/a/egf_l1/x": 3.0,
    }
