"""What a sampler draws is what is trained on, and so what is measured; to find it out changes no sampler."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from threading import Lock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import Callback
from tiny_images import CLASSES, Images, assert_close, data, expected
from tiny_images import fit as fit_images
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_sparse import ClassSpecializationCallback, GradientFlowCallback
from lightning_sparse.callbacks.probing.evaluation_batches import evaluation_batches
from lightning_sparse.callbacks.probing.gradients import draw_batches

NUMBERS = TensorDataset(torch.arange(12))
TRAINED = [0, 2, 4, 6, 8, 10]  # the others are held out


class Own(Sampler[int]):
    """Shuffles its own list in place, by a source of random numbers."""

    def __init__(self, shuffle: Callable[[list[int]], object] | None = None) -> None:
        self.numbers, self.shuffle, self.epochs = [*TRAINED], shuffle, 0

    def __iter__(self) -> Iterator[int]:
        self.epochs += 1
        if self.shuffle is not None:
            self.shuffle(self.numbers)
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


class WithGenerator(Own):
    """Has a generator of its own."""

    def __init__(self) -> None:
        super().__init__(self.draw)
        self.generator = torch.Generator().manual_seed(3)

    def draw(self, numbers: list[int]) -> None:
        numbers[:] = [numbers[index] for index in torch.randperm(len(numbers), generator=self.generator)]


class WithLock(WithGenerator):
    """Holds something that can't be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = Lock()


class Endless(Own):
    """Never ends, and has no length."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from super().__iter__()

    __len__ = None  # type: ignore[assignment]  # as Python asks for


class Grouped(Sampler[list[int]]):
    """Draws batches of samples that belong together."""

    def __iter__(self) -> Iterator[list[int]]:
        return iter([[4, 0], [8, 2], [6, 10, 0]])

    def __len__(self) -> int:
        return 3


def torch_shuffle(numbers: list[int]) -> None:
    numbers[:] = [numbers[index] for index in torch.randperm(len(numbers))]


def numpy_shuffle(numbers: list[int]) -> None:
    np.random.shuffle(numbers)  # noqa: NPY002  # as projects do


SAMPLERS: dict[str, Callable[[], dict[str, Any]]] = {
    "list": lambda: {"sampler": [*TRAINED]},
    "array": lambda: {"sampler": np.array(TRAINED)},
    "tensor": lambda: {"sampler": torch.tensor(TRAINED)},
    "own": lambda: {"sampler": Own()},
    "own_torch": lambda: {"sampler": Own(torch_shuffle)},
    "own_python": lambda: {"sampler": Own(random.shuffle)},
    "own_numpy": lambda: {"sampler": Own(numpy_shuffle)},
    "own_generator": lambda: {"sampler": WithGenerator()},
    "uncopyable": lambda: {"sampler": WithLock()},
    "endless": lambda: {"sampler": Endless()},
    "subset": lambda: {"sampler": SubsetRandomSampler(TRAINED)},
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0, 0.0] * 6, 3)},
    "batches_of_own": lambda: {"batch_sampler": BatchSampler(WithGenerator(), 4, drop_last=False)},
    "batches": lambda: {"batch_sampler": [[4, 0], [8, 2], [6, 10, 0]]},
    "own_batches": lambda: {"batch_sampler": Grouped()},
}


def loader(kind: str, dataset: Dataset[Any] = NUMBERS) -> DataLoader[Any]:
    options = SAMPLERS[kind]()
    return DataLoader(dataset, **({"batch_size": 4, **options} if "sampler" in options else options))


def process(rank: int = 0, world_size: int = 1) -> Any:
    connector = SimpleNamespace(use_distributed_sampler=True)
    return SimpleNamespace(global_rank=rank, world_size=world_size, _accelerator_connector=connector)


def measured(batches: Any, rank: int = 0, world_size: int = 1) -> list[int]:
    with evaluation_batches(process(rank, world_size), Images(), batches) as plain:
        return [number for batch in plain for number in batch[0].tolist()]


@pytest.mark.parametrize("kind", [*SAMPLERS])
def test_what_is_held_out_is_not_measured_and_the_rest_is_once(kind: str) -> None:
    assert sorted(measured(loader(kind))) == TRAINED
    assert measured(loader(kind)) == (
        TRAINED if "batches" not in kind or kind == "batches_of_own" else [4, 0, 8, 2, 6, 10]
    )


@pytest.mark.parametrize("kind", [*SAMPLERS])
def test_no_batches_of_what_is_held_out_are_drawn(kind: str) -> None:
    drawn = [torch.cat([batch for (batch,) in draw_batches(loader(kind), 2, seed)]).tolist() for seed in range(6)]
    assert all(set(numbers) <= set(TRAINED) for numbers in drawn)
    assert len({tuple(numbers) for numbers in drawn}) > 1


@pytest.mark.parametrize("dataset", [NUMBERS, TensorDataset(torch.arange(6))])
def test_without_a_sampler_of_its_own_all_of_a_data_set_is_measured(dataset: TensorDataset) -> None:
    assert measured(DataLoader(dataset, 4, shuffle=True)) == list(range(len(dataset)))


def states(sampler: Any) -> list[Any]:
    own = [sampler.numbers, sampler.epochs] if isinstance(sampler, Own) else []
    generator = [sampler.generator.get_state().tolist()] if isinstance(sampler, WithGenerator) else []
    drawn = (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()))  # noqa: NPY002  # as above
    return [*own, *generator, *drawn]


@pytest.mark.parametrize("kind", [*SAMPLERS])
def test_neither_the_sampler_nor_a_random_state_is_changed(kind: str) -> None:
    batches = loader(kind)
    sampler = getattr(batches.batch_sampler, "sampler", batches.sampler)
    before = repr(states(sampler))
    with evaluation_batches(process(), Images(), batches):
        draw_batches(batches, 1, seed=0)
    assert repr(states(sampler)) == before


class Noting(Callback):
    """Notes the images of each batch."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(batch[0].flatten(1).sum(1).mul(1000).int().tolist())


@pytest.mark.parametrize("kind", [*SAMPLERS])
@pytest.mark.parametrize("callback", [lambda: ClassSpecializationCallback(), lambda: GradientFlowCallback(batches=1)])
def test_a_run_sees_the_batches_that_it_sees_without_a_measurement(kind: str, callback: Any) -> None:
    def seen(*callbacks: Any) -> list[list[int]]:
        note = Noting()
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002  # as above
        fit_images(note, *callbacks, train=loader(kind, data(12)), limit_train_batches=2)
        return note.batches

    assert seen(callback()) == seen()


def test_the_data_set_is_not_copied_with_the_sampler() -> None:
    class Uncopyable(TensorDataset):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError

    dataset = Uncopyable(torch.arange(12))
    own = WithGenerator()
    own.data = dataset  # type: ignore[attr-defined]  # as samplers that balance classes have
    assert measured(DataLoader(dataset, 4, sampler=own)) == TRAINED
    assert own.epochs == 0


class ByName(Dataset[Tensor]):
    """Has names for its samples."""

    def __getitem__(self, name: str) -> Tensor:  # type: ignore[override]  # keys of any kind
        return torch.tensor([len(name)])


def test_keys_may_be_of_any_kind() -> None:
    batches = DataLoader(ByName(), 2, sampler=["one", "three", "one"])
    with evaluation_batches(process(), Images(), batches) as plain:
        assert [batch.flatten().tolist() for batch in plain] == [[3, 5]]


def test_an_iterator_whose_samples_training_would_miss_is_refused() -> None:
    batches = DataLoader(NUMBERS, 4, sampler=(number for number in TRAINED))
    with pytest.raises(TypeError, match=r"starts from the beginning at each iteration; got a generator.*Cure"):
        measured(batches)
    assert [batch.tolist() for (batch,) in batches] == [[0, 2, 4, 6], [8, 10]]


@pytest.mark.parametrize("kind", ["own_torch", "own_python", "own_generator", "list", "weighted"])
def test_processes_share_what_a_sampler_draws_that_lightning_divides(kind: str) -> None:
    shares = []
    for rank in range(2):
        torch.manual_seed(rank)  # as of processes without a common seed
        random.seed(rank)
        sampler = DistributedSamplerWrapper(loader(kind).sampler, num_replicas=2, rank=rank)
        shares.append(measured(DataLoader(NUMBERS, 2, sampler=sampler), rank, 2))
    assert shares == [TRAINED[::2], TRAINED[1::2]]


class OwnShare(DistributedSampler[int]):
    """Divides the samples in a way of its own."""

    def __iter__(self) -> Iterator[int]:
        return iter(TRAINED[3 * self.rank : 3 * self.rank + 3])


def test_a_sampler_that_divides_the_samples_in_its_own_way_is_followed() -> None:
    shares = [measured(DataLoader(NUMBERS, 2, sampler=OwnShare(NUMBERS, 2, rank)), rank, 2) for rank in range(2)]
    assert shares == [TRAINED[:3], TRAINED[3:]]
    plain = [measured(DataLoader(NUMBERS, 2, sampler=DistributedSampler(NUMBERS, 2, r)), r, 2) for r in range(2)]
    assert sorted(plain[0] + plain[1]) == list(range(12))


def test_own_batches_are_divided_as_they_are() -> None:
    assert [measured(loader("own_batches"), rank, 2) for rank in range(2)] == [[4, 0, 6, 10], [8, 2]]


def test_class_specialization_is_that_of_the_samples_that_are_drawn() -> None:
    callback = ClassSpecializationCallback(num_classes=CLASSES)
    run = fit_images(callback, train=loader("own_generator", data(12)))
    trained = TensorDataset(*(tensor[TRAINED] for tensor in data(12).tensors))
    assert callback.result is not None
    assert_close(callback.result["net.first"], expected(run.lightning_module, "net.first", trained))
