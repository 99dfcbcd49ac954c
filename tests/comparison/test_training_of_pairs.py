"""One side of a pair is trained as its cell says, on the batches of the other side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from studies import one, study
from torch import Tensor

from lightning_sparse.comparison import training_process
from lightning_sparse.comparison.regularizers import DecoupledWeightDecay
from lightning_sparse.comparison.training_process import make_pair, run
from lightning_sparse.models import ImageClassifier

pytestmark = [
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Return a list of all batches that are trained on."""
    batches: list[tuple[Tensor, Tensor]] = []
    step = ImageClassifier.training_step

    def note(self: Any, batch: Any, batch_idx: int) -> Any:
        batches.append((batch[0].clone(), batch[1].clone()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(ImageClassifier, "training_step", note)
    return batches


@pytest.mark.parametrize("regularizer", ["none", "da_bn"])
def test_both_sides_see_the_same_batches(
    regularizer: str, seen: list[tuple[Tensor, Tensor]], small_images: Path, tmp_path: Path
) -> None:
    run(one("dense", regularizers=(regularizer,)), small_images, tmp_path)
    dense = list(seen)
    seen.clear()
    run(one("sparse", regularizers=(regularizer,)), small_images, tmp_path)
    assert len(dense) == len(seen) == 3 * 4
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(dense, seen, strict=True))
    seen.clear()
    run(one("sparse", seed=1, regularizers=(regularizer,)), small_images, tmp_path)
    assert not torch.equal(dense[0][1], seen[0][1])


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[ImageClassifier]:
    """Return a list of the modules that were trained."""
    modules: list[ImageClassifier] = []
    train = training_process.train_resumably

    def note(trainer: Any, model: ImageClassifier, *rest: Any) -> Any:
        modules.append(model)
        return train(trainer, model, *rest)

    monkeypatch.setattr(training_process, "train_resumably", note)
    return modules


@pytest.mark.parametrize("recipe", [{"recipe": "static"}, {"recipe": "set", "prune_rate": 0.5}])
def test_sparse_networks_have_the_active_weights_of_the_dense_ones_at_the_end(
    recipe: dict[str, Any], trained: list[ImageClassifier], small_images: Path, tmp_path: Path
) -> None:
    results = [run(one(side, sparse_training=recipe), small_images, tmp_path) for side in ("dense", "sparse")]
    dense, sparse = (module.model for module in trained)
    pair = make_pair(one(sparse_training=recipe))
    for name, count in pair.active.items():
        assert dense.get_parameter(name).numel() == count
        nonzero = sparse.get_parameter(name).detach() != 0
        assert int(nonzero.sum()) <= count  # what was grown may not have been reached by a gradient yet
        moved = bool((nonzero & ~pair.masks[name]).any())
        assert moved == (recipe["recipe"] == "set" and not pair.masks[name].all())
    assert all(result is not None and result["active"] == pair.active for result in results)


def test_gradual_pruning_ends_with_as_many_weights_in_every_layer(
    trained: list[ImageClassifier], small_images: Path, tmp_path: Path
) -> None:
    training = one(pruned_from_dense=True, init_reference="sparse_nominal")
    result = run(training, small_images, tmp_path)
    assert result is not None
    assert result["active"] == make_pair(training).active
    left = {
        name: int(weight.count_nonzero()) for name, weight in trained[0].model.named_parameters() if weight.dim() > 1
    }
    assert left == result["active"]
    assert any(left[name] < trained[0].model.get_parameter(name).numel() for name in left)


def test_first_masks_may_be_those_of_another_rule() -> None:
    largest = one(initial_masks="magnitude", init_reference="sparse_nominal")
    pair = make_pair(largest)
    random = make_pair(one(init_reference="sparse_nominal"))
    assert pair.active == random.active
    with torch.no_grad():
        sums = [[float(each.sparse.get_parameter(name).abs().sum()) for name in pair.masks] for each in (pair, random)]
    assert all(larger >= smaller for larger, smaller in zip(*sums, strict=True))
    assert sum(sums[0]) > sum(sums[1])


def test_a_result_has_what_a_study_needs(small_images: Path, tmp_path: Path) -> None:
    training = one()
    result = run(training, small_images, tmp_path)
    assert result is not None
    assert result == json.loads((tmp_path / f"{training.path}.json").read_text())
    assert (result["images"], result["diverged"], result["side"]) == (100, False, "sparse")
    assert 0 <= result["correct"] <= 100
    assert [record["epoch"] for record in result["gradient_flow"]] == [0, 1, 2]
    assert set(result["gradient_flow"][0]) == {"epoch", "egf_l1", "egf_l2", "l1", "l2"}
    again = run(training, small_images, tmp_path / "again")
    assert again is not None
    timeless = [{key: value for key, value in each.items() if "seconds" not in key} for each in (result, again)]
    assert timeless[0] == timeless[1]


def test_gradient_flow_of_sparse_networks_is_that_of_their_active_weights(small_images: Path, tmp_path: Path) -> None:
    dense, sparse = (run(one(side), small_images, tmp_path) for side in ("dense", "sparse"))
    assert dense is not None
    assert sparse is not None
    for record in dense["gradient_flow"]:
        assert 3 * record["egf_l1"] == pytest.approx(record["l1"])
    for record in sparse["gradient_flow"]:
        assert 3 * record["egf_l1"] < 0.9 * record["l1"]


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor", "ignore:non-finite gradients")
def test_a_network_that_is_not_finite_has_diverged(small_images: Path, tmp_path: Path) -> None:
    steep = {"sgd": {"class_path": "torch.optim.SGD", "learning_rates": [1e30]}}
    result = run(one("dense", optimizers=steep), small_images, tmp_path)
    assert result is not None
    assert result["diverged"]
    assert "correct" not in result


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_finite_network_with_gradients_that_are_not_has_diverged(number: float) -> None:
    norms = [{"epoch": 0, "egf_l1": 1.0}, {"epoch": 1, "egf_l1": number}]
    assert not training_process._is_finite({"test/loss": 1.0}, norms)
    assert not training_process._is_finite({"test/loss": number}, norms[:1])
    assert training_process._is_finite({"test/loss": 1.0}, norms[:1])


@pytest.mark.parametrize(("regularizer", "decay"), [("none", 0.0), ("l2", 1e-2), ("l2_bn", 1e-2), ("wd", 0.0)])
def test_the_penalty_is_the_optimizers_weight_decay(
    regularizer: str, decay: float, trained: list[ImageClassifier], small_images: Path, tmp_path: Path
) -> None:
    run(one("dense", regularizers=(regularizer,), weight_decay=1e-2), small_images, tmp_path)
    assert trained[0].optimizer(trained[0].parameters()).param_groups[0]["weight_decay"] == decay


@pytest.mark.parametrize("regularizer", ["none", "wd"])
def test_decoupled_decay_of_adam_is_adamw(
    regularizer: str, trained: list[ImageClassifier], small_images: Path, tmp_path: Path
) -> None:
    adam = {"adam": {"class_path": "torch.optim.Adam", "learning_rates": [0.01]}}
    adamw = {"adam": {"class_path": "torch.optim.AdamW", "init_args": {"weight_decay": 0.1}, "learning_rates": [0.01]}}
    run(one("dense", optimizers=adam, regularizers=(regularizer,), weight_decay=0.1), small_images, tmp_path)
    run(one("dense", optimizers=adamw, name="other"), small_images, tmp_path)
    ours, theirs = (torch.cat([each.detach().flatten() for each in module.parameters()]) for module in trained)
    assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6) == (regularizer == "wd")


def test_decay_leaves_parameters_without_a_rate_alone() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    DecoupledWeightDecay(0.5).on_before_optimizer_step(None, None, torch.optim.SGD([weight], lr=0.0))  # type: ignore[arg-type]  # unused
    assert weight.tolist() == [1, 1, 1]
    DecoupledWeightDecay(0.5).on_before_optimizer_step(None, None, torch.optim.SGD([weight], lr=0.5))  # type: ignore[arg-type]  # unused
    assert weight.tolist() == [0.75] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "os.sep"}, r"Expected a function of a width that makes a network; got .*Cure"),
        ({"model": "nowhere.at_all"}, r"a function of a width that makes a network.*Cure"),
    ],
)
def test_what_can_not_be_trained_is_refused(
    changes: dict[str, Any], message: str, small_images: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        run(one(**changes), small_images, tmp_path)
    assert not (tmp_path / f"{one(**changes).path}.json").exists()


def test_a_pair_at_the_full_width_is_dense_on_both_sides(small_images: Path, tmp_path: Path) -> None:
    results = [run(one(side, widths=(12,)), small_images, tmp_path) for side in ("dense", "sparse")]
    assert all(result is not None and not result["diverged"] for result in results)


def test_skip_connections_and_activations_are_those_of_the_cell() -> None:
    changed = study(regularizers=("sc_bn",), activations=("srelu",), depths=(3,))
    pair = make_pair(changed.training(changed.cells()[0], 3, 0, "dense"))
    names = [type(module).__name__ for module in pair.dense.modules()]
    assert names.count("SReLU") == names.count("BatchNorm1d") == 3
    assert [layer.skip for layer in pair.dense.hidden] == [False, True, True]
