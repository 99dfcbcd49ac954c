"""Options in containers of other libraries, as configurations of Hydra hold them, and options of other kinds."""

from __future__ import annotations

from collections import UserDict, UserList
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from tiny_training import differences, fit

from lightning_sparse._compat import Callback
from lightning_sparse.callbacks import GradientFlowCallback, SparseMomentumCallback, SparseTrainingCallback


def callbacks_with(
    sequence: Callable[[list[object]], Sequence[object]], mapping: Callable[[dict[str, float]], Mapping[str, float]]
) -> list[Callback]:
    return [
        SparseMomentumCallback(
            density=mapping({"net.0": 0.5, "*": 0.2}),
            include=sequence(["net.*"]),  # type: ignore[arg-type]  # of strings
            exclude=sequence([]),  # type: ignore[arg-type]  # of strings
        ),
        GradientFlowCallback(orders=sequence([1, 2]), include=sequence(["net.*"])),  # type: ignore[arg-type]  # see above
    ]


def test_options_in_containers_of_other_libraries_are_those_of_lists_and_dictionaries(tmp_path: Path) -> None:
    states = []
    for number, containers in enumerate([(list, dict), (UserList, UserDict)]):
        callbacks = callbacks_with(*containers)  # type: ignore[arg-type]  # classes of containers
        run = fit(*callbacks, max_epochs=2)
        run.save_checkpoint(tmp_path / f"{number}.ckpt")
        states.append(torch.load(tmp_path / f"{number}.ckpt", weights_only=True)["callbacks"])
    assert list(states[0]) == list(states[1])
    assert not differences(states[0], states[1])


def test_a_recipe_is_for_the_callback_of_recipes() -> None:
    with pytest.raises(TypeError, match=r"Expected rules.*got recipe='set'\. Cure: SparseTrainingCallback takes"):
        SparseMomentumCallback(recipe="set")
    SparseTrainingCallback(recipe="set")


def test_a_density_in_a_tensor_is_refused_with_the_way_to_its_number() -> None:
    with pytest.raises(ValueError, match=r"a density in \(0, 1\].*tensor\(0\.05.*item\(\)"):
        SparseMomentumCallback(density=torch.tensor(0.05))  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match=r"a sparsity in \[0, 1\).*tensor\(0\.95.*item\(\)"):
        SparseMomentumCallback(sparsity=torch.tensor(0.95))
    with pytest.raises(ValueError, match=r"the density is 0\.05, a number\."):
        SparseMomentumCallback(density="5 %")  # type: ignore[arg-type]  # what is tested
