"""Properties of the in-memory loader: what an epoch contains, how it is shared, and how it resumes."""

from __future__ import annotations

import io
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_sparse.data import Batch, InMemoryLoader, Normalize, PadCropFlip, in_memory_loader

COUNTS = st.integers(1, 40)
BATCH_SIZES = st.integers(1, 15)
SEEDS = st.integers(0, 2**63)


def make_loader(count: int = 10, batch_size: int = 3, **options: Any) -> InMemoryLoader:
    """Return a loader of images with one pixel, the image's number, and twice that number as label."""
    numbers = torch.arange(count)
    images = numbers.to(torch.uint8).view(count, 1, 1, 1)
    return InMemoryLoader(images, numbers * 2, batch_size, **{"shuffle": True, **options})


def numbers_in(batch: Batch) -> list[int]:
    return [int(number) for number in batch[0].flatten()]


def epoch_of(loader: InMemoryLoader) -> list[list[int]]:
    return [numbers_in(batch) for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [number for batch in batches for number in batch]


@given(COUNTS, BATCH_SIZES, st.booleans(), SEEDS)
def test_every_image_comes_exactly_once_per_epoch(count: int, batch_size: int, shuffle: bool, seed: int) -> None:
    loader = make_loader(count, batch_size, shuffle=shuffle, seed=seed)
    for _ in range(2):
        batches = epoch_of(loader)
        assert sorted(flat(batches)) == list(range(count))
        assert len(batches) == len(loader)
        assert all(len(batch) == batch_size for batch in batches[:-1])


@given(COUNTS, BATCH_SIZES, st.integers(1, 6), SEEDS)
def test_shares_are_equal_and_together_cover_every_image(
    count: int, batch_size: int, world_size: int, seed: int
) -> None:
    loaders = [make_loader(count, batch_size, seed=seed, rank=r, world_size=world_size) for r in range(world_size)]
    shares = [epoch_of(loader) for loader in loaders]
    assert len({tuple(len(batch) for batch in share) for share in shares}) == 1
    everything = flat([flat(share) for share in shares])
    assert set(everything) == set(range(count))
    # Only what fills up the last places comes more than once.
    assert len(everything) - count == -count % world_size


@given(st.integers(1, 6), st.integers(1, 6), SEEDS)
def test_shares_are_disjoint_when_images_divide_evenly(share: int, world_size: int, seed: int) -> None:
    count = share * world_size
    loaders = [make_loader(count, 4, seed=seed, rank=r, world_size=world_size) for r in range(world_size)]
    assert sorted(flat([flat(epoch_of(loader)) for loader in loaders])) == list(range(count))


@given(COUNTS, BATCH_SIZES, st.booleans(), st.integers(1, 6), SEEDS)
def test_uneven_shares_have_every_image_exactly_once(
    count: int, batch_size: int, shuffle: bool, world_size: int, seed: int
) -> None:
    world_size = min(world_size, count)
    options = {"shuffle": shuffle, "seed": seed, "world_size": world_size, "even": False}
    loaders = [make_loader(count, batch_size, rank=rank, **options) for rank in range(world_size)]
    shares = [flat(epoch_of(loader)) for loader in loaders]
    assert sorted(flat(shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [len(loader) for loader in loaders] == [-(-len(share) // batch_size) for share in shares]


@given(COUNTS, BATCH_SIZES, st.booleans(), st.booleans(), st.integers(1, 3), st.data())
def test_resuming_anywhere_equals_never_stopping(
    count: int, batch_size: int, shuffle: bool, drop_last: bool, world_size: int, data: st.DataObject
) -> None:
    batch_size = min(batch_size, -(-count // world_size))
    options = {"shuffle": shuffle, "drop_last": drop_last, "world_size": world_size}
    whole = make_loader(count, batch_size, seed=1, **options)
    expected = [epoch_of(whole) for _ in range(3)]

    stop = data.draw(st.integers(0, len(whole)))
    stopped = make_loader(count, batch_size, seed=1, **options)
    epoch_of(stopped)
    for _ in islice(stopped, stop):
        pass
    resumed = make_loader(count, batch_size, seed=2, **options)
    resumed.load_state_dict(stopped.state_dict())

    # At 0 nothing of the second epoch was asked for: it comes whole. At its end the third is the next.
    rest = [expected[1][stop:]] if stop < len(whole) else []
    assert [epoch_of(resumed) for _ in (*rest, expected[2])] == [*rest, expected[2]]


def noted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Augmentation that shows its draws: a random number in place of each image's pixel."""
    return torch.randint(0, 2**31, images.shape, generator=generator)


@given(COUNTS, BATCH_SIZES, st.integers(1, 3), st.data())
def test_augmentation_resumes_wherever_the_epoch_was_left(
    count: int, batch_size: int, world_size: int, data: st.DataObject
) -> None:
    options: dict[str, Any] = {"augment": noted, "world_size": world_size, "rank": world_size - 1}
    whole = make_loader(count, batch_size, seed=1, **options)
    expected = [epoch_of(whole) for _ in range(3)]
    stop = data.draw(st.integers(1, len(whole)))
    stopped = make_loader(count, batch_size, seed=1, **options)
    epoch_of(stopped)
    for _ in islice(stopped, stop):
        pass
    resumed = make_loader(count, batch_size, seed=2, **options)
    resumed.load_state_dict(stopped.state_dict())
    rest = [] if stop == len(whole) else [epoch_of(resumed)]
    assert [*rest, epoch_of(resumed)] == [*([expected[1][stop:]] if rest else []), expected[2]]


@pytest.mark.parametrize("left_after", [0, 2, 5, 7])
def test_batches_made_together_equal_those_made_one_by_one(left_after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(20, 2, 5, 6)
    loaders = [
        InMemoryLoader(images, torch.arange(20), 3, shuffle=True, augment=PadCropFlip(2), transform=Normalize([0], [2]))
        for _ in range(2)
    ]
    one_by_one = list(loaders[0])
    made: list[int] = []
    apply = PadCropFlip.apply
    monkeypatch.setattr(in_memory_loader, "_batches_at_once", lambda *_: 4)
    monkeypatch.setattr(PadCropFlip, "apply", lambda self, *given: made.append(len(given[0])) or apply(self, *given))
    begun = list(islice(loaders[1], left_after))
    state = loaders[1].state_dict()
    loaders[1].load_state_dict(state)
    batches = begun + list(loaders[1] if left_after < 7 else [])
    assert len(batches) == len(one_by_one) == 7
    for made_alone, batch in zip(one_by_one, batches, strict=True):
        assert all(map(torch.equal, made_alone, batch))
    assert made == {0: [12, 8], 2: [12, 12, 2], 5: [12, 8, 5], 7: [12, 8]}[left_after]


def test_batches_are_made_together_only_if_augmented_on_a_device() -> None:
    class More(PadCropFlip):
        pass

    cpu, other = (torch.empty(9, 3, 32, 32, device=device, dtype=torch.uint8) for device in ("cpu", "meta"))
    large, at_once = torch.empty(9, 3, 224, 224, device="meta", dtype=torch.uint8), in_memory_loader._batches_at_once
    assert at_once(cpu, 128, PadCropFlip()) == 1
    assert [at_once(other, 128, augment) for augment in (None, lambda images, _: images, More())] == [1, 1, 1]
    assert [at_once(other, size, PadCropFlip()) for size in (1, 128, 1024, 100_000)] == [16, 16, 3, 1]
    assert at_once(large, 256, PadCropFlip()) == 1


def test_a_subclass_of_crops_and_flips_keeps_its_additions() -> None:
    class AndBlack(PadCropFlip):
        def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
            return super().__call__(images, generator) * 0

    loader = InMemoryLoader(torch.ones(6, 1, 4, 4), torch.arange(6), 3, shuffle=True, augment=AndBlack(1))
    assert all(images.sum() == 0 for images, _ in loader)


def test_each_batch_epoch_process_and_seed_is_augmented_in_a_way_of_its_own() -> None:
    draws: list[int] = []
    for options in ({"seed": 0}, {"seed": 1}, {"seed": 0, "rank": 1, "world_size": 2}):
        loader = make_loader(20, 5, augment=noted, **options)
        draws += flat(epoch_of(loader)) + flat(epoch_of(loader))
    assert len(set(draws)) == len(draws) == 40 + 40 + 20


def test_the_order_is_the_same_with_and_without_augmentation() -> None:
    plain, augmented = make_loader(20, 5), make_loader(20, 5, augment=noted)
    for _ in range(2):
        assert [labels.tolist() for _, labels in plain] == [labels.tolist() for _, labels in augmented]


def test_augmentation_comes_before_the_transform_and_leaves_the_stored_images_alone() -> None:
    loader = make_loader(
        4,
        4,
        shuffle=False,
        augment=lambda images, generator: images.add_(1),
        transform=lambda batch: (batch[0].float() * 10, batch[1]),
    )
    for _ in range(2):
        assert next(iter(loader))[0].flatten().tolist() == [10, 20, 30, 40]


def test_augmentation_neither_uses_nor_changes_the_global_random_state() -> None:
    before = torch.get_rng_state()
    first = epoch_of(make_loader(40, 7, augment=noted))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert epoch_of(make_loader(40, 7, augment=noted)) == first


def test_labels_stay_with_their_images() -> None:
    for images, labels in make_loader(10, 3):
        assert labels.tolist() == [2 * int(number) for number in images.flatten()]


def test_unshuffled_batches_come_in_the_given_order() -> None:
    loader = make_loader(7, 3, shuffle=False)
    assert epoch_of(loader) == epoch_of(loader) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_smaller_last_batch_can_be_left_out() -> None:
    assert epoch_of(make_loader(7, 3, shuffle=False, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert len(make_loader(7, 3, drop_last=True)) == 2


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = make_loader(40, 40, seed=0), make_loader(40, 40, seed=1)
    orders = [flat(epoch_of(loader)) for loader in (first, first, second, second)]
    # All four differ: the second epoch of seed 0 is not the first of seed 1.
    assert len({tuple(order) for order in orders}) == 4


def test_seeds_that_differ_only_above_32_bits_have_orders_of_their_own() -> None:
    assert epoch_of(make_loader(40, 40, seed=5)) != epoch_of(make_loader(40, 40, seed=5 + 2**32))


def test_the_global_random_state_neither_matters_nor_changes() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = epoch_of(make_loader(40, 7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert epoch_of(make_loader(40, 7)) == first


def test_an_epoch_that_was_left_is_followed_by_the_next_one() -> None:
    expected = make_loader(40, 7)
    epoch_of(expected)
    loader = make_loader(40, 7)
    next(iter(loader))
    assert epoch_of(loader) == epoch_of(expected)


def test_iterators_that_yield_nothing_do_not_count() -> None:
    loader = make_loader(40, 7)
    iter(loader), iter(loader)
    assert epoch_of(loader) == epoch_of(make_loader(40, 7))


def test_set_epoch_selects_the_epoch() -> None:
    counted = make_loader(40, 7)
    epochs = [epoch_of(counted) for _ in range(4)]
    loader = make_loader(40, 7)
    for number in (3, 0, 2, 2):
        loader.sampler.set_epoch(number)
        assert epoch_of(loader) == epochs[number]


def test_set_epoch_keeps_a_restored_position_in_that_epoch() -> None:
    expected, loader = make_loader(40, 7), make_loader(40, 7)
    whole = epoch_of(expected)
    loader.load_state_dict({**loader.state_dict(), "batch": 2})
    loader.sampler.set_epoch(0)
    assert epoch_of(loader) == whole[2:]


def test_set_epoch_leaves_a_restored_epoch_that_was_not_used_up() -> None:
    expected, loader = make_loader(40, 7), make_loader(40, 7)
    epoch_of(expected)
    loader.load_state_dict({**loader.state_dict(), "batch": 2})
    loader.sampler.set_epoch(1)
    assert epoch_of(loader) == epoch_of(expected)


def test_an_epoch_announced_without_batches_after_a_restore_is_skipped_for_good() -> None:
    expected, loader = make_loader(40, 7), make_loader(40, 7)
    epochs = [epoch_of(expected) for _ in range(3)]
    loader.load_state_dict({**loader.state_dict(), "batch": len(loader)})
    loader.sampler.set_epoch(1)
    loader.sampler.set_epoch(2)
    assert epoch_of(loader) == epochs[1]
    loader.sampler.set_epoch(3)
    assert epoch_of(loader) == epochs[2]


def test_transform_is_applied_to_each_batch() -> None:
    def negate(batch: Batch) -> Batch:
        return -batch[0].float(), batch[1]

    loader = make_loader(4, 4, shuffle=False, transform=negate)
    images, labels = next(iter(loader))
    assert images.flatten().tolist() == [0, -1, -2, -3]
    assert labels.tolist() == [0, 2, 4, 6]


def test_batches_are_copies() -> None:
    loader = make_loader(4, 4, shuffle=False)
    next(iter(loader))[0].fill_(9)
    assert epoch_of(loader) == [[0, 1, 2, 3]]


def test_state_survives_weights_only_loading() -> None:
    loader = make_loader()
    next(iter(loader))
    file = io.BytesIO()
    torch.save(loader.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == loader.state_dict()


@pytest.mark.parametrize(
    "change",
    [
        {"images": 11},
        {"batch_size": 4},
        {"world_size": 2},
        {"shuffle": False},
        {"drop_last": True},
        {"batch": 5},
        {"batch": -1},
        {"epoch": -1},
    ],
    ids=str,
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(change: dict[str, Any]) -> None:
    loader, expected = make_loader(), make_loader()
    wrong = {**loader.state_dict(), "epoch": 3, "seed": 9, **change}
    with pytest.raises(ValueError, match=next(iter(change))):
        loader.load_state_dict(wrong)
    assert epoch_of(loader) == epoch_of(expected)


@pytest.mark.parametrize("key", ["epoch", "batch", "offset", "seed", "images", "world_size"])
def test_a_state_without_a_key_is_refused_and_changes_nothing(key: str) -> None:
    loader, expected = make_loader(), make_loader()
    wrong = {**loader.state_dict(), "epoch": 3, "seed": 9}
    del wrong[key]
    with pytest.raises(ValueError, match=key):
        loader.load_state_dict(wrong)
    assert epoch_of(loader) == epoch_of(expected)


@pytest.mark.parametrize(
    ("images", "labels", "error"),
    [
        (torch.zeros(4, 2, 2), torch.zeros(4, dtype=torch.int64), ValueError),
        (torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64), ValueError),
        (torch.zeros(4, 1, 2, 2), torch.zeros(3, dtype=torch.int64), ValueError),
        (torch.zeros(4, 1, 2, 2), torch.zeros(4, 1, dtype=torch.int64), ValueError),
        (torch.zeros(4, 1, 2, 2), torch.zeros(4), TypeError),
    ],
    ids=["no_channels", "no_images", "too_few_labels", "labels_in_a_column", "float_labels"],
)
def test_tensors_that_do_not_fit_are_refused(images: Tensor, labels: Tensor, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"Expected .* got"):
        InMemoryLoader(images, labels, 2, shuffle=True)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 0}, {"rank": 1}, {"rank": -1}, {"world_size": 0}, {"batch_size": 11, "drop_last": True}],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Expected .* got"):
        make_loader(**options)
