"""What is wrong is refused with what was expected, what came and the cure, and nothing is half-changed.

Wrong arguments of the callbacks are in `callbacks/test_sparse_training_arguments.py`, wrong states of a network in
`test_network.py`, damaged checkpoints in `callbacks/test_damaged_checkpoints.py`, wrong arrays in `data/`.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations
from torch.optim import SGD, Optimizer

from lightning_sparse import SparseMomentumCallback, SparseTrainingCallback
from lightning_sparse.cli import main
from lightning_sparse.data import ArrayDataModule
from lightning_sparse.models import ImageClassifier, LeNet300100
from lightning_sparse.network import SparseNetwork
from lightning_sparse.network.steps.hooks import watchers_of as observers_of
from lightning_sparse.testing.callbacks.runs import everything, watchers_of
from lightning_sparse.testing.callbacks.training import CLASSES, FEATURES, ShufflingLoader, TinyModule, fit, trainer
from lightning_sparse.testing.equality import deep_copy, differences
from lightning_sparse.topology.layer import LayerView
from lightning_sparse.topology.recipe import Recipe
from lightning_sparse.topology.recipes import SET, SPARSE_MOMENTUM

REFUSAL = re.compile(r"Expected .+; got .+\. Cure: .+", re.DOTALL)


@contextmanager
def refused(error: type[BaseException], named: str) -> Iterator[None]:
    """Expect an error that says what was expected, what came, by name, and the cure."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert REFUSAL.search(message), message
    assert named in came(message), message


def came(message: str) -> str:
    """Return what an error says that came."""
    return message.partition("; got ")[2].partition(" Cure: ")[0]


def random_state() -> str:
    """Return a digest of the global random states."""
    states = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state())  # noqa: NPY002  # that one
    return hashlib.sha256(repr(states).encode()).hexdigest()


@contextmanager
def same_random_state() -> Iterator[None]:
    """Expect the global random states to be left alone."""
    before = random_state()
    yield
    assert random_state() == before, "the global random state has changed"


def table(cases: dict[str, Any]) -> pytest.MarkDecorator:
    """Run a test once for each case, under its name."""
    return pytest.mark.parametrize("case", list(cases.values()), ids=list(cases))


# --- What is wrong by itself

LAYER = nn.Linear(6, 4)
# Any: they are given what they don't take.
Network: Any = SparseNetwork
Momentum: Any = SparseMomentumCallback
Training: Any = SparseTrainingCallback
AnyRecipe: Any = Recipe


@dataclass(frozen=True)
class Making:
    """An object that can't be made."""

    error: type[Exception]
    named: str
    make: Callable[[], object]


def images(**options: Any) -> ArrayDataModule:
    pixels, labels = np.zeros((20, 2, 2), dtype=np.uint8), np.arange(20) % 3
    return ArrayDataModule(pixels, labels, pixels, labels, **options)


def set_up(**options: Any) -> None:
    images(**options).setup()


def classifier(model: Any = None, **options: Any) -> ImageClassifier:
    return ImageClassifier(LAYER if model is None else model, **options)


def score(layer: LayerView) -> Tensor:
    return layer.weight.abs()


MAKING = {
    "density and sparsity": Making(
        ValueError, "density=0.1 and sparsity=0.9", lambda: Momentum(density=0.1, sparsity=0.9)
    ),
    "sparsity 1": Making(ValueError, "1", lambda: Momentum(sparsity=1)),
    "sparsity in percent": Making(ValueError, "95", lambda: Training(sparsity=95)),
    "sparsity NaN": Making(ValueError, "nan", lambda: Training(sparsity=float("nan"))),
    "sparsity as text": Making(ValueError, "'0.95'", lambda: Training(sparsity="0.95")),
    "sparsity of a layer": Making(ValueError, "-0.5", lambda: Training(sparsity={"*": -0.5})),
    "no sparsity of any layer": Making(ValueError, "empty", lambda: Training(sparsity={})),
    "density of a list": Making(ValueError, "[0.1, 0.2]", lambda: Training(density=[0.1, 0.2])),
    "density of a number as pattern": Making(TypeError, "3", lambda: Training(density={3: 0.1})),
    "schedule of two arguments": Making(TypeError, "divmod", lambda: Training(schedule=divmod)),
    "schedule above 1": Making(ValueError, "2.0", lambda: Training(schedule=lambda at: 1 + at)),
    "growth of two arguments": Making(TypeError, "divmod", lambda: Momentum(growth=divmod)),
    "growth as a class": Making(TypeError, "Linear", lambda: Momentum(growth=nn.Linear)),
    "recipe of names": Making(TypeError, "'magnitude'", lambda: AnyRecipe("magnitude", None, "random")),
    "network of no module": Making(TypeError, "'model'", lambda: Network("model")),
    "network of parameters": Making(
        TypeError,
        "generator",
        lambda: Network(LAYER.parameters()),
    ),
    "network of a class": Making(TypeError, "Linear", lambda: Network(nn.Linear)),
    "network with a state's name": Making(ValueError, "'last'", lambda: Network(LAYER, 0.5, state="last")),
    "network with a wrong seed": Making(ValueError, "'0'", lambda: Network(LAYER, seed="0")),
    "classifier of no model": Making(ValueError, "'lenet'", lambda: classifier("lenet")),
    "classifier of a class": Making(TypeError, "LeNet300100", lambda: classifier(LeNet300100)),
    "classifier of one class": Making(ValueError, "1", lambda: classifier(num_classes=1)),
    "classifier of a text of classes": Making(ValueError, "'10'", lambda: classifier(num_classes="10")),
    "classifier with a wrong interval": Making(ValueError, "'batch'", lambda: classifier(lr_interval="batch")),
    "classifier with channels_last no bool": Making(TypeError, "'yes'", lambda: classifier(channels_last="yes")),
    "classifier with a made optimizer": Making(
        TypeError, "SGD", lambda: classifier(optimizer=SGD(LAYER.parameters(), lr=0.1))
    ),
    "classifier with a schedule's name": Making(TypeError, "str", lambda: classifier(lr_scheduler="cosine")),
    "batches of no image": Making(ValueError, "0 and", lambda: images(batch_size=0)),
    "batches of a text": Making(ValueError, "'32'", lambda: images(batch_size="32")),
    "evaluation batches of no image": Making(ValueError, "0", lambda: images(eval_batch_size=0)),
    "evaluation batches of half an image": Making(ValueError, "0.5", lambda: images(eval_batch_size=0.5)),
    "all images held out": Making(ValueError, "1.0", lambda: images(val_fraction=1.0)),
    "a negative share held out": Making(ValueError, "-0.1", lambda: images(val_fraction=-0.1)),
    "mean without std": Making(ValueError, "std=None", lambda: images(mean=[0.1])),
    "std of zero": Making(ValueError, "(0.0,)", lambda: images(mean=[0.1], std=[0.0])),
    "split seed as text": Making(ValueError, "'0'", lambda: images(split_seed="0")),
    "no image left to train on": Making(ValueError, "0.999", lambda: set_up(val_fraction=0.999)),
    "mean of three channels for one": Making(ValueError, "3", lambda: set_up(mean=[0.1] * 3, std=[1.0] * 3)),
    "batches before setup": Making(RuntimeError, "before setup", lambda: images().train_dataloader()),
    "state of no data module": Making(ValueError, "{}", lambda: images().load_state_dict({})),
}


@table(MAKING)
def test_what_is_wrong_by_itself_is_refused_where_it_is_given(case: Making) -> None:
    before = deep_copy(dict(LAYER.state_dict()))
    with same_random_state(), refused(case.error, case.named):
        case.make()
    assert differences(dict(LAYER.state_dict()), before) == []


# --- What a Trainer is started with


@dataclass(frozen=True)
class Fit:
    """A fit that is refused before its first step, or at its first update."""

    error: type[Exception]
    named: str
    # Of the callback. With them it trains the right module; where none is right, a cured one trains the module.
    options: dict[str, Any] = field(default_factory=dict)
    cured: dict[str, Any] = field(default_factory=dict)
    module: Callable[[], TinyModule] = TinyModule
    right: Callable[[], TinyModule] = TinyModule
    others: Callable[[], list[SparseTrainingCallback]] = list
    trainer: dict[str, Any] = field(default_factory=dict)


class Holds(TinyModule):
    """Any network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class Steps(TinyModule):
    """Another module than its own is what its optimizer steps."""

    def __init__(self, chosen: Callable[[TinyModule], Any]) -> None:
        super().__init__()
        self.chosen = chosen

    def configure_optimizers(self) -> Optimizer:
        return SGD(self.chosen(self), lr=0.1, momentum=0.9)


class NoOptimizer(TinyModule):
    def configure_optimizers(self) -> None:
        return None


def weights_of(module: nn.Module) -> dict[str, Any]:
    """Return copies of all weights and buffers; a lazy one has no values yet."""
    return {name: "lazy" if is_lazy(each) else each.clone() for name, each in module.state_dict().items()}


def module_hooks(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def frozen() -> TinyModule:
    module = TinyModule()
    for layer in (module.net[0], module.net[3]):
        layer.weight.requires_grad_(False)
    return module


def poisoned(value: float) -> TinyModule:
    module = TinyModule()
    with torch.no_grad():
        module.net[3].weight[1, 2] = value
    return module


def wide() -> TinyModule:
    torch.manual_seed(3)
    return Holds(nn.Sequential(nn.Linear(FEATURES, 40), nn.ReLU(), nn.Linear(40, CLASSES)))


def convolutional() -> TinyModule:
    torch.manual_seed(3)
    first, last = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)
    return Holds(
        nn.Sequential(nn.Unflatten(1, (1, FEATURES)), nn.Conv1d(1, 1, 1), nn.Flatten(), first, nn.ReLU(), last)
    )


def normalized() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(FEATURES), nn.LayerNorm(FEATURES))


def weight_normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(FEATURES, CLASSES)))


FIT = {
    "no layer to mask": Fit(ValueError, "Holds", module=lambda: Holds(normalized())),
    "embeddings only": Fit(ValueError, "net.weight", module=lambda: Holds(nn.Embedding(5, CLASSES))),
    "all weights computed": Fit(ValueError, "parametrized", module=lambda: Holds(weight_normed())),
    "all weights frozen": Fit(ValueError, "net.0.weight (frozen)", module=frozen),
    "complex weights": Fit(
        ValueError, "net.weight", module=lambda: Holds(nn.Linear(FEATURES, CLASSES, dtype=torch.complex64))
    ),
    "a lazy layer": Fit(ValueError, "'net.weight'", module=lambda: Holds(nn.LazyLinear(CLASSES))),
    "include that matches nothing": Fit(ValueError, "'net.3'", {"include": ["net.3"], "density": 0.5}, module=wide),
    "include of an absent type": Fit(ValueError, "Conv1d", {"include": nn.Conv1d, "density": 1.0}, right=convolutional),
    "include of a bias": Fit(ValueError, "net.0.bias (a bias", {"include": "net.0.bias"}, {"include": "net.0"}),
    "exclude that matches nothing": Fit(ValueError, "'net.3'", {"exclude": "net.3"}, module=wide),
    "exclude of everything": Fit(ValueError, "exclude='net.[02]*'", {"exclude": "net.[02]*"}, module=wide),
    "dense that matches nothing": Fit(ValueError, "'net.3'", {"dense": "net.3", "density": 0.8}, module=wide),
    "dense layers beyond the budget": Fit(ValueError, "0.3", {"dense": "net.0"}, {"dense": "net.3", "density": 0.7}),
    "dense and excluded at once": Fit(
        ValueError, "'net.0'", {"dense": "net.0", "exclude": "net.0"}, {"exclude": "net.0"}
    ),
    "a density out of reach": Fit(ValueError, "0.01", {"density": 0.01}, right=wide),
    "a minimum out of reach": Fit(ValueError, "0.3", {"min_active": 30}, right=wide),
    "a layer without a density": Fit(
        ValueError, "'net.3.weight'", {"density": {"net.0": 0.3}}, {"density": {"*": 0.3}}
    ),
    "a density for no layer": Fit(ValueError, "'net.3'", {"density": {"net.3": 0.3, "*": 0.2}}, module=wide),
    "an optimizer of biases": Fit(
        ValueError, "1 optimizers", module=lambda: Steps(lambda own: [own.net[0].bias, own.net[3].bias])
    ),
    "an optimizer of another model": Fit(
        ValueError, "1 optimizers", module=lambda: Steps(lambda own: TinyModule().net.parameters())
    ),
    "an optimizer of one layer": Fit(
        ValueError,
        "net.0.weight",
        cured={"exclude": "net.0"},
        module=lambda: Steps(lambda own: own.net[3].parameters()),
    ),
    "no optimizer": Fit(ValueError, "step none", module=NoOptimizer),
    "two callbacks": Fit(
        MisconfigurationException,
        "SparseTrainingCallback",
        others=lambda: [SparseTrainingCallback(density=0.5)],
    ),
    "NaN in a weight": Fit(ValueError, "NaN", module=lambda: poisoned(float("nan"))),
    "infinity in a weight": Fit(ValueError, "infinity", module=lambda: poisoned(float("inf"))),
    "epochs without end": Fit(ValueError, "max_epochs=-1", trainer={"max_epochs": -1}),
    "time only": Fit(ValueError, "max_steps=-1", trainer={"max_epochs": None, "max_time": "00:00:10:00"}),
    "steps without end": Fit(ValueError, "max_steps=-1", {"every_n_steps": 2}, trainer={"max_epochs": -1}),
}


def make(options: dict[str, Any]) -> SparseMomentumCallback:
    return SparseMomentumCallback(**{"density": 0.3, **options})


def check_reusable(callback: SparseTrainingCallback, fresh: SparseTrainingCallback, right: Callable[[], Any]) -> None:
    """Compare a fit of a callback after a failure with that of a new one."""
    expected = everything(fit(fresh, module=right()), fresh)
    assert differences(everything(fit(callback, module=right()), callback), expected) == []


def check_trainable(
    module: TinyModule, callback: SparseTrainingCallback, fresh: TinyModule, other: SparseTrainingCallback
) -> None:
    """Train a module that a refused fit left, and compare with a new one."""
    trained, expected = (
        weights_of(fit(sparse, module=each).lightning_module) for sparse, each in ((callback, module), (other, fresh))
    )
    assert differences(trained, expected) == []


@pytest.mark.filterwarnings("ignore:.*configure_optimizers. returned .None.")
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
@table(FIT)
def test_a_fit_with_something_wrong_is_refused_before_anything_changes(case: Fit) -> None:
    callback, module = make(case.options), case.module()
    before, hooks = weights_of(module), module_hooks(module)
    run = trainer(callback, *case.others(), **case.trainer)
    with refused(case.error, case.named):
        run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert watchers_of(run) == 0
    assert run.global_step == 0
    assert module_hooks(module) == hooks
    assert differences(weights_of(module), before) == []
    assert (getattr(callback, "network", None), callback.history) == (None, [])
    if case.cured:  # with these options the callback can't train anything: the module can, with others
        check_trainable(module, make(case.cured), case.module(), make(case.cured))
    else:
        check_reusable(callback, make(case.options), case.right)


# --- What goes wrong at the first update


@dataclass(frozen=True)
class Update:
    """A fit whose first update is refused."""

    named: str
    wrong: dict[str, Callable[[LayerView], Any]]
    error: type[Exception] = ValueError


def one_row(layer: LayerView) -> Tensor:
    return layer.weight.sum(1)


def nan_in_the_last_layer(layer: LayerView) -> Tensor:
    return layer.weight * (float("nan") if layer.name == "net.3.weight" else 1)


UPDATES = {
    "pruning scores per row": Update("shape (8,)", {"pruning": one_row}),
    "growth scores per row": Update("shape (8,)", {"growth": one_row}),
    "pruning scores with NaN": Update("NaN", {"pruning": nan_in_the_last_layer}),
    "growth scores with NaN": Update("NaN", {"growth": nan_in_the_last_layer}),
    "no growth scores": Update("None", {"growth": lambda layer: None}),
    "growth scores as a list": Update("list", {"growth": lambda layer: layer.weight.tolist()}),
    "complex growth scores": Update("complex64", {"growth": lambda layer: layer.weight.to(torch.complex64)}),
    "growth scores elsewhere": Update("meta", {"growth": lambda layer: layer.weight.to("meta")}),
    "a negative claim": Update("-1.0", {"redistribution": lambda layer: -1.0}),
    "a claim of NaN": Update("nan", {"redistribution": lambda layer: float("nan")}),
    "an endless claim": Update("inf", {"redistribution": lambda layer: torch.tensor(float("inf"))}),
    "a claim per weight": Update("shape (8, 6)", {"redistribution": score}),
    "a claim as text": Update("'all'", {"redistribution": lambda layer: "all"}),
    "no claim": Update("None", {"redistribution": lambda layer: None}),
}
RIGHT: dict[str, Callable[[LayerView], Any]] = {
    "pruning": score,
    "growth": lambda layer: torch.rand(layer.weight.shape, generator=layer.generator),
    "redistribution": lambda layer: 1.0,
}


def wrong_until(mended: list[bool], wrong: Callable[[LayerView], Any], right: Callable[[LayerView], Any]) -> Any:
    return lambda layer: (right if mended else wrong)(layer)


@table(UPDATES)
def test_a_refused_update_leaves_masks_weights_and_random_state_as_they_were(case: Update) -> None:
    def callback() -> SparseMomentumCallback:
        return make({"redistribution": None, **{kind: RIGHT[kind] for kind in case.wrong}})

    mended: list[bool] = []
    rules = {kind: wrong_until(mended, wrong, RIGHT[kind]) for kind, wrong in case.wrong.items()}
    failing = make({"redistribution": None, **rules})
    module, run = TinyModule(), trainer(failing)
    with refused(case.error, case.named):
        run.fit(module, ShufflingLoader(), ShufflingLoader(1))
    assert watchers_of(run) == 0
    before = callback()
    stopped = fit(before, max_epochs=1)
    assert differences(weights_of(module), weights_of(stopped.lightning_module)) == []
    assert failing.network is not None
    assert before.network is not None
    assert differences(failing.network.state_dict(), before.network.state_dict()) == []
    assert failing.history == []
    mended.append(True)
    check_reusable(failing, callback(), TinyModule)


# --- What a network is asked for


@dataclass(frozen=True)
class Ask:
    """A call of a network that is refused; it gets the network, its optimizer and a model of the same kind."""

    error: type[Exception]
    named: str
    call: Callable[[Any, Any, Any], object]


def mlp(width: int = 8) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(FEATURES, width), nn.Tanh(), nn.Linear(width, CLASSES))


ASKED = {
    "attach no optimizer": Ask(TypeError, "None", lambda net, own, other: net.attach(None)),
    "attach a model": Ask(TypeError, "Linear", lambda net, own, other: net.attach(other)),
    "attach a class": Ask(TypeError, "SGD", lambda net, own, other: net.attach(SGD)),
    "attach twice": Ask(ValueError, "attached already", lambda net, own, other: net.attach(own)),
    "attach another model's optimizer": Ask(
        ValueError, "SGD", lambda net, own, other: net.attach(SGD(other.parameters(), lr=0.1))
    ),
    "ask whether a model steps it": Ask(TypeError, "Linear", lambda net, own, other: net.is_stepped_by(other)),
    "rewire by no recipe": Ask(TypeError, "None", lambda net, own, other: net.rewire(None, 0.5)),
    "rewire by an unknown recipe": Ask(ValueError, "'rigel'", lambda net, own, other: net.rewire("rigel", 0.5)),
    "rewire by a rule": Ask(TypeError, "score", lambda net, own, other: net.rewire(score, 0.5)),
    "prune at a percentage": Ask(ValueError, "50", lambda net, own, other: net.rewire(SET, 50)),
    "prune at a text": Ask(ValueError, "'half'", lambda net, own, other: net.rewire(SET, "half")),
    "prune at nothing": Ask(ValueError, "None", lambda net, own, other: net.rewire(SET, None)),
    "prune at a truth value": Ask(ValueError, "True", lambda net, own, other: net.rewire(SET, True)),
    "enforce on a wider copy": Ask(ValueError, "(9, 6)", lambda net, own, other: net.enforce_on(mlp(9))),
    "enforce on a layer": Ask(ValueError, "none", lambda net, own, other: net.enforce_on(other.get_submodule("2"))),
    "enforce on weights": Ask(TypeError, "OrderedDict", lambda net, own, other: net.enforce_on(other.state_dict())),
    "enforce on nothing": Ask(TypeError, "None", lambda net, own, other: net.enforce_on(None)),
    "load nothing": Ask(ValueError, "None", lambda net, own, other: net.load_state_dict(None)),
    "load a name": Ask(ValueError, "'last.ckpt'", lambda net, own, other: net.load_state_dict("last.ckpt")),
    "load a model's state": Ask(ValueError, "masks", lambda net, own, other: net.load_state_dict(other.state_dict())),
    "load an optimizer's state": Ask(
        ValueError, "masks", lambda net, own, other: net.load_state_dict(own.state_dict())
    ),
    "load masks": Ask(ValueError, "generator", lambda net, own, other: net.load_state_dict({"masks": net.masks})),
    "load the state of a wider model": Ask(
        ValueError, "(9, 6)", lambda net, own, other: net.load_state_dict(SparseNetwork(mlp(9), 0.5).state_dict())
    ),
}


def attached() -> tuple[SparseNetwork, Optimizer]:
    model = mlp()
    network, optimizer = SparseNetwork(model, 0.3, seed=0), SGD(model.parameters(), lr=0.1, momentum=0.9)
    network.attach(optimizer)
    step(network, optimizer)
    return network, optimizer


def step(network: SparseNetwork, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    network.model(torch.linspace(-1, 1, 5 * FEATURES).view(5, FEATURES)).square().sum().backward()
    optimizer.step()


def all_of(network: SparseNetwork, optimizer: Optimizer) -> dict[str, Any]:
    hooks = len(observers_of([optimizer]))
    states = {"weights": weights_of(network.model), "network": network.state_dict(gradients=True)}
    return deep_copy({**states, "optimizer": optimizer.state_dict(), "hooks": hooks, "layers": network.layers})


@table(ASKED)
def test_a_wrong_call_of_a_network_is_refused_and_changes_nothing(case: Ask) -> None:
    network, optimizer = attached()
    other = mlp()
    before, untouched = all_of(network, optimizer), weights_of(other)
    with same_random_state(), refused(case.error, case.named):
        case.call(network, optimizer, other)
    assert differences(all_of(network, optimizer), before) == []
    assert differences(weights_of(other), untouched) == []
    twin = attached()
    for each in ((network, optimizer), twin):
        each[0].rewire(SPARSE_MOMENTUM, 0.5)
        step(*each)
    assert differences(all_of(network, optimizer), all_of(*twin)) == []


# --- What is typed


@dataclass(frozen=True)
class Typed:
    """A command line that ends with an error."""

    named: str
    arguments: list[str]


SPARSE = "--trainer.callbacks=lightning_sparse.SparseMomentumCallback"
TYPED = {
    "an unknown experiment": Typed("'mnist_lenet301'", ["fit", "--config", "mnist_lenet301"]),
    "an unknown experiment after an equals sign": Typed("'mnist_lenet301'", ["fit", "--config=mnist_lenet301"]),
    "an experiment without a name": Typed("''", ["fit", "--config", ""]),
    "a density in percent": Typed(
        "95", ["fit", "--config", "digits_lenet300", SPARSE, "--trainer.callbacks.density=95"]
    ),
    "an unknown rule": Typed(
        "'momentun'", ["fit", "--config", "digits_lenet300", SPARSE, "--trainer.callbacks.growth=momentun"]
    ),
    "no image in a batch": Typed("0 and", ["fit", "--config", "digits_lenet300", "--data.init_args.batch_size=0"]),
    "a demo of one epoch": Typed("1", ["demo", "--epochs", "1"]),
    "a demo of too many weights": Typed("2", ["demo", "--density", "2"]),
}


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@table(TYPED)
def test_a_wrong_command_line_ends_with_the_error_and_leaves_no_file(
    case: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(case.arguments)
    assert stop.value.code not in (0, None)
    message = f"{stop.value.code} {capsys.readouterr().err}"
    assert REFUSAL.search(message), message
    assert case.named in came(message), message
    assert list(tmp_path.iterdir()) == []


def test_there_are_as_many_cases_as_promised() -> None:
    assert len(MAKING) + len(FIT) + len(UPDATES) + len(ASKED) + len(TYPED) >= 100
