"""Both analyses in unchanged projects: their numbers equal a count by hand, and the runs don't change."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, seed_everything
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from lightning_sparse import ClassSpecializationCallback, GradientFlowCallback, SparseMomentumCallback

from .processes import run
from .projects import BATCH, CLASSES, PROJECTS, classifier_of, images
from .training import ddp, trainer

STEPS = {"automatic": 8, "manual": 4, "gan": 16}  # of all optimizers, in two epochs of four batches


class OfClassifier(ClassSpecializationCallback):
    """Calls the network that takes images, whatever the module's forward does."""

    def forward(self, pl_module: LightningModule, images: Any) -> Any:
        """Run the classifier."""
        return classifier_of(pl_module)(images)


def trained(project: str, *, measuring: bool = True, compiled: bool = False, **options: Any) -> dict[str, Any]:
    """Train a project at half of its weights for two epochs; return results, numbers by hand, and the final state."""
    seed_everything(3)
    module = PROJECTS[project]()
    if compiled:
        classifier_of(module).compile(backend="aot_eager")
    sparse = SparseMomentumCallback(density=0.5, seed=5)
    norms = note_norms(module, sparse)
    flow, special = GradientFlowCallback(every_n_steps=1), OfClassifier(num_classes=CLASSES)
    rank, processes = int(os.environ.get("RANK", 0)), options.get("devices", 1)
    dtype = torch.float64 if options.get("precision") == "64-true" else torch.float32
    batches = DataLoader(TensorDataset(*images(dtype)[rank::processes]), batch_size=BATCH // processes)
    trainer_options: dict[str, Any] = {"max_epochs": 2, "use_distributed_sampler": False, **options}
    trainer(sparse, *((flow, special) if measuring else ()), **trainer_options).fit(module, batches)
    return {
        "flow": [{name: layer["l1"] for name, layer in record.layers.items()} for record in flow.history],
        "egf": [record.effective["l1"] for record in flow.history],
        "special": {name: result["specialization"] for name, result in (special.result or {}).items()},
        "left": [*module.state_dict().values(), torch.get_rng_state()],
        "norms by hand": norms,
        "special by hand": by_hand(module, options.get("precision") == "bf16-mixed") if processes == 1 else None,
    }


def note_norms(module: LightningModule, sparse: SparseMomentumCallback) -> list[dict[str, float]]:
    """Return a list that gets, at each step of an optimizer, the 1-norms of its active weights' gradients by layer."""
    noted: list[dict[str, float]] = []

    def note(optimizer: Optimizer) -> None:
        assert sparse.network is not None
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        weights, norms = dict(module.named_parameters()), {}
        for name, mask in sparse.network.masks.items():
            if id(weights[name]) in own:
                norms[name] = float((weights[name].grad * mask).abs().sum())
        noted.append(norms)

    module.on_before_optimizer_step = note  # type: ignore[method-assign]  # a hook of the project's
    return noted


def by_hand(module: LightningModule, bfloat16: bool) -> list[Tensor]:
    """Return the specialization of each channel of the convolutions, from all images at once."""
    pictures, labels = images().tensors
    net, specialization = classifier_of(module).eval(), []
    features = pictures.to(next(net.parameters()).dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        for layer in net.children():
            features = layer(features)
            if isinstance(layer, nn.Conv2d):
                activity = features.double().abs().sum((2, 3))
                by_class = torch.stack([activity[labels == each].sum(0) for each in range(CLASSES)], 1)
                specialization.append(by_class.amax(1) / by_class.sum(1))
    return specialization


# PyTorch reads the gradient of a compiled network's inputs, here of generated images.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "bf16-mixed"}, {"compiled": True}, {"accumulate_grad_batches": 2}],
    ids=["plain", "bf16-mixed", "compiled", "accumulating"],
)
@pytest.mark.parametrize("project", PROJECTS)
def test_projects_are_measured_as_they_are_and_stay_the_same(project: str, options: dict[str, Any]) -> None:
    accumulating = "accumulate_grad_batches" in options
    if accumulating and project != "automatic":
        pytest.skip("the module accumulates on its own")
    measured, without = trained(project, **options), trained(project, measuring=False, **options)
    assert len(measured["flow"]) == STEPS[project] // (2 if accumulating else 1)
    assert measured["flow"] == [pytest.approx(norms, rel=1e-5) for norms in measured["norms by hand"]]
    assert measured["egf"] == pytest.approx([sum(norms.values()) / len(norms) for norms in measured["norms by hand"]])
    tolerance = 0.02 if "precision" in options else 1e-5
    torch.testing.assert_close(
        [*measured["special"].values()], measured["special by hand"], rtol=tolerance, atol=0, check_dtype=False
    )
    assert len(without["left"]) == len(measured["left"])
    assert all(torch.equal(one, other) for one, other in zip(measured["left"], without["left"], strict=True))


def _measured(project: str, processes: int) -> dict[str, Any]:
    several = {"strategy": ddp(find_unused_parameters=True), "devices": processes} if processes > 1 else {}
    return trained(project, precision="64-true", **several)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("project", PROJECTS)
def test_two_processes_measure_projects_as_one_does(tmp_path: Path, project: str) -> None:
    (alone,) = run(_measured, 1, tmp_path, project, 1)
    assert not isinstance(alone, str), alone
    reports = run(_measured, 2, tmp_path, project, 2)
    for report in reports:
        assert not isinstance(report, str), report
        assert len(report["flow"]) == STEPS[project]
        assert report["flow"] == [pytest.approx(norms, rel=1e-6) for norms in alone["norms by hand"]]
        assert report["egf"] == pytest.approx(alone["egf"], rel=1e-6)
        torch.testing.assert_close(report["special"], alone["special"], rtol=1e-6, atol=0)
