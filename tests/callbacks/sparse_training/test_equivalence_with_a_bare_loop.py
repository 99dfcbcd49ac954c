"""Lightning adds nothing to the mathematics: a run with the callback is bit for bit a loop over `SparseNetwork`."""

from __future__ import annotations

import copy
from functools import partial

import torch
from lightning.pytorch import Trainer
from torch.nn.functional import cross_entropy

from lightning_sparse import SparseMomentumCallback, SparseNetwork
from lightning_sparse.data import DigitsDataModule
from lightning_sparse.models import ImageClassifier, LeNet300100
from lightning_sparse.topology.recipes import SPARSE_MOMENTUM
from lightning_sparse.topology.schedule import cosine

SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
DECAY = partial(torch.optim.lr_scheduler.StepLR, step_size=20, gamma=0.1)
EPOCHS = 4


def digits() -> DigitsDataModule:
    data = DigitsDataModule(batch_size=100, shuffle_seed=3)
    data.setup("fit")
    return data


def test_a_run_with_the_callback_equals_a_bare_loop_bit_for_bit() -> None:
    in_lightning = LeNet300100(in_features=64)
    in_loop = copy.deepcopy(in_lightning)

    callback = SparseMomentumCallback(density=0.05, seed=5)
    module = ImageClassifier(in_lightning, optimizer=SGD, lr_scheduler=DECAY, lr_interval="step")
    Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, digits())

    optimizer = SGD(in_loop.parameters())
    schedule = DECAY(optimizer)
    network = SparseNetwork(in_loop, density=0.05, seed=5)
    network.attach(optimizer)
    loader = digits().train_dataloader()
    for epoch in range(EPOCHS):
        if epoch:
            network.rewire(SPARSE_MOMENTUM, 0.5 * cosine((epoch - 1) / (EPOCHS - 2)))
        loader.sampler.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            cross_entropy(in_loop(images), labels).backward()
            optimizer.step()
            schedule.step()

    assert callback.network is not None
    assert [record.pruned > 0 for record in callback.history] == [True, True, False]
    for name, weight in in_loop.named_parameters():
        torch.testing.assert_close(in_lightning.get_parameter(name), weight, rtol=0, atol=0)
    for name, mask in network.masks.items():
        torch.testing.assert_close(callback.network.masks[f"model.{name}"], mask)
