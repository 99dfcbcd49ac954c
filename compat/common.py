"""The recount that every script makes: budget, zeros and saved masks, read off weights and checkpoint files."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_sparse import GradientFlowCallback, SparseMomentumCallback
from lightning_sparse._compat import Callback, LightningModule, ModelCheckpoint, Trainer, seed_everything

RESULT = "RESULT "  # what the line of standard output begins with that `run` reads


def saved_masks(checkpoint: dict[str, Any], key: str) -> dict[str, Tensor]:
    """Return the masks in a checkpoint, unpacked without the package: one bit a weight, the first one lowest."""
    state = checkpoint["callbacks"][key]["network"]
    masks = {}
    for name, packed in state["masks"].items():
        shape = state["shapes"][name]
        bits = np.unpackbits(packed.numpy(), count=int(np.prod(shape)), bitorder="little")
        masks[name] = torch.from_numpy(bits.astype(bool)).reshape(shape)
    return masks


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Tell whether two dictionaries have the same masks; the names may differ where the module does."""
    return len(first) == len(second) and all(
        torch.equal(a, b) for a, b in zip(first.values(), second.values(), strict=True)
    )


def nonzero_outside(weights: dict[str, Tensor], masks: dict[str, Tensor]) -> int:
    """Return how many weights outside of the masks are not exactly zero."""
    return sum(int((weights[name].detach()[~mask] != 0).sum()) for name, mask in masks.items())


def is_counted(parameter: Tensor) -> bool:
    """Tell whether a parameter is trained and has two or more dimensions."""
    return parameter.requires_grad and parameter.dim() > 1 and not isinstance(parameter, nn.UninitializedParameter)


class Recount(Callback):
    """Counts after every step, and in a checkpoint at the end of each fit, beside the callbacks under test.

    Args:
        trained: What is trained, in a few words.
        density: Density of the sparse callback.
        flow: Whether GradientFlowCallback takes part.
        add_to: Recount of another network of the same script, for one report about both.
        options: Further options of SparseMomentumCallback.
    """

    def __init__(
        self, trained: str, density: float = 0.2, flow: bool = True, add_to: Recount | None = None, **options: Any
    ) -> None:
        self.trained, self.density = trained, density
        self._options = options
        self.sparse = SparseMomentumCallback(density=density, **options)
        self.flow = GradientFlowCallback(every_n_epochs=1) if flow else None
        # What holds of all networks that a script trains; sizes are sums over them.
        self.held: dict[str, bool] = add_to.held if add_to else {}
        self.notes: list[str] = add_to.notes if add_to else []
        self.sizes: dict[str, int] = add_to.sizes if add_to else {"maskable": 0, "overall": 0, "steps": 0, "updates": 0}
        self.best: Path | None = None
        self._expected: dict[str, Tensor] | None = None
        self._counted = False

    @property
    def callbacks(self) -> list[Callback]:
        """What the package's Trainer gets; a new list each time, as some packages add to it."""
        return [self.sparse, *([self.flow] if self.flow else []), self]

    def check(self, name: str, holds: bool) -> None:
        """Note a property; it holds if it did at every check."""
        self.held[name] = self.held.get(name, True) and bool(holds)

    def note(self, note: str) -> None:
        """Add a fact about the package to the report that is neither right nor wrong."""
        if note not in self.notes:
            self.notes.append(note)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks of the callback under test."""
        return dict(self.sparse.network.masks)

    @property
    def budget(self) -> int:
        """Number of weights that have to be active, by the definition of density."""
        return round(self.density * sum(mask.numel() for mask in self.masks.values()))

    def _check_now(self, module: LightningModule) -> None:
        weights, masks = dict(module.named_parameters(remove_duplicate=False)), self.masks
        self.check("budget", sum(int(mask.sum()) for mask in masks.values()) == self.budget)
        self.check("zeros", nonzero_outside(weights, masks) == 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the weights; compare masks with those that a second fit or a resumed run is to begin with."""
        if self._expected is not None:
            self.check("masks kept", same(self._expected, self.masks))
        if not self._counted:
            trained = [parameter for parameter in pl_module.parameters() if is_counted(parameter)]
            self.sizes["overall"] += sum(parameter.numel() for parameter in trained)
            self.sizes["maskable"] += sum(mask.numel() for mask in self.masks.values())
            self._counted = True
        self._check_now(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Count after every batch."""
        self.sizes["steps"] += 1
        self._check_now(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the weights that are validated."""
        if trainer.state.fn == "fit":
            self._check_now(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a checkpoint and count what it has."""
        self._check_now(pl_module)
        self.sizes["updates"] += len(self.sparse.history)
        self._expected = {name: mask.clone() for name, mask in self.masks.items()}
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        self.best = Path(best) if best else None
        with tempfile.TemporaryDirectory() as folder:
            trainer.save_checkpoint(Path(folder) / "saved.ckpt")
            weights, masks = self.read(Path(folder) / "saved.ckpt")
        self.check("checkpoint", same(masks, self._expected) and nonzero_outside(weights, masks) == 0)

    def read(self, path: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the weights and the masks in a checkpoint of Lightning."""
        checkpoint = torch.load(path, weights_only=False)  # the package's own file
        return checkpoint["state_dict"], saved_masks(checkpoint, self.sparse.state_key)

    def check_trained(self, module: nn.Module) -> None:
        """Count the weights that a package hands over after training, by the masks of the callback."""
        weights = dict(module.named_parameters(remove_duplicate=False))
        self.check("weights after fit", nonzero_outside(weights, self.masks) == 0)

    def check_best(self, module: nn.Module, prefix: str = "") -> None:
        """Count the weights of a module that a package loaded from the best checkpoint, if they are as sparse.

        Args:
            module: The module, or one that it was part of.
            prefix: Beginning of the names in the checkpoint that the module's names lack.
        """
        checkpoint = torch.load(self.best, weights_only=False)
        weights = {name.removeprefix(prefix): weight for name, weight in checkpoint["state_dict"].items()}
        handed_over = dict(module.named_parameters(remove_duplicate=False))
        names = [name.removeprefix(prefix) for name in self.masks]
        # A weight that was just grown is zero, too: so zeros are counted, not compared with the masks of another epoch.
        active = sum(int((handed_over[name].detach() != 0).sum()) for name in names)
        self.check(
            "best weights", all(torch.equal(handed_over[n], weights[n]) for n in names) and active <= self.budget
        )
        if self.sparse.state_key not in checkpoint.get("callbacks", {}):
            self.note("the package saves its best checkpoint without the masks")

    def resumed(self, path: Path, **options: Any) -> Recount:
        """Return a recount with new callbacks, for a run that begins with a checkpoint; it adds to this report."""
        other = Recount(self.trained, self.density, self.flow is not None, self, **{**self._options, **options})
        other._expected, other._counted = self.read(path)[1], True
        return other

    def report(self) -> None:
        """Print what held, for `run`, and end with status 1 if something didn't."""
        if self.flow is not None:
            self.check("gradient flow", len(self.flow.history) > 0)
        print(RESULT + json.dumps({"trained": self.trained, **self.sizes, "held": self.held, "notes": self.notes}))
        sys.exit(not all(self.held.values()))


def train_and_resume(
    recount: Recount, make_module: Callable[[], LightningModule], data: Any, exact: bool = True, **options: Any
) -> LightningModule:
    """Return a module after four epochs; train another from the checkpoint of the second one, and compare them.

    Args:
        recount: What counts.
        make_module: What makes the module.
        data: Training data, in the same order in each epoch.
        exact: Whether the resumed run has to end with the same weights, as it does if nothing in it is random.
        options: Further options of the Trainer.
    """
    options = {"accelerator": "cpu", "logger": False, "max_epochs": 4, **options}
    with tempfile.TemporaryDirectory() as folder:
        seed_everything(0)
        module, other = make_module(), make_module()
        saver = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        Trainer(callbacks=[*recount.callbacks, saver], **options).fit(module, data)
        path = Path(folder) / "epoch=1.ckpt"
        again = recount.resumed(path)
        Trainer(callbacks=again.callbacks, enable_checkpointing=False, **options).fit(
            other, data, ckpt_path=path, weights_only=False
        )
    if exact:
        pairs = zip(module.parameters(), other.parameters(), strict=True)
        recount.check("exact resume", same(recount.masks, again.masks) and all(torch.equal(a, b) for a, b in pairs))
    return module
