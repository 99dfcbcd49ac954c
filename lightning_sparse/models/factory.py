"""Networks by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints

from torch import nn

from lightning_sparse.models.alexnet import AlexNet
from lightning_sparse.models.lenet import LeNet5Caffe, LeNet300100
from lightning_sparse.models.mlp import MLP
from lightning_sparse.models.resnet import ResNet50
from lightning_sparse.models.vgg import VGG16
from lightning_sparse.models.wide_resnet import WideResNet
from lightning_sparse.validation.errors import InvalidTypeError, InvalidValueError
from lightning_sparse.validation.import_paths import import_object

# Arguments that define a published network are bound by position, so that they are no options of its name.
_PUBLISHED: dict[str, Callable[..., nn.Module]] = {
    "lenet-300-100": LeNet300100,
    "lenet-5-caffe": LeNet5Caffe,
    "alexnet-s": partial(AlexNet, "s"),
    "alexnet-b": partial(AlexNet, "b"),
    "vgg16-c": partial(VGG16, "C"),
    "vgg16-d": partial(VGG16, "D"),
    "vgg16-like": partial(VGG16, "like"),
    "wrn-28-2": partial(WideResNet, 28, 2),
    "wrn-22-8": partial(WideResNet, 22, 8),
    "wrn-16-8": partial(WideResNet, 16, 8),
    "wrn-16-10": partial(WideResNet, 16, 10),
    "resnet-50": ResNet50,
    "mlp": MLP,
}
# Bare class names work as names here, as they do on the command line.
_CLASSES = {made.__name__: made for made in (LeNet300100, LeNet5Caffe, AlexNet, VGG16, WideResNet, ResNet50, MLP)}


def model_names() -> list[str]:
    """Return the names of the networks that :func:`create_model` makes.

    >>> model_names()[:3]
    ['lenet-300-100', 'lenet-5-caffe', 'alexnet-s']
    """
    return list(_PUBLISHED)


def create_model(name: str, /, **options: Any) -> nn.Module:
    """Make a network by name.

    >>> create_model("wrn-28-2", num_classes=100, width=0.5).fc
    Linear(in_features=64, out_features=100, bias=True)

    Args:
        name: One of :func:`model_names`, the name of a class of this package ("VGG16"), or the import path of a
            subclass of ``nn.Module`` or of a function that is annotated to return one:
            "torchvision.models.resnet18", "package.module:function".
        options: Arguments of the class or function, such as ``num_classes`` and ``width``.

    Raises:
        ValueError: If there is no such name, the path can't be imported, or there is no such option.
        TypeError: If the name is no string, or its class or function isn't declared to return a module, or returns
            none.
    """
    maker = _maker_of(name)
    _check_options_accepted(name, _signature(maker), options)
    model = maker(**options)
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(
            expected=f"that {name!r} makes a torch.nn.Module, as it is annotated",
            got=f"a {type(model).__name__}",
            cure="return the network",
        )
    return model


def has_option(name: str, option: str) -> bool:
    """Tell whether the signature of the class or function behind a name accepts an option.

    >>> has_option("vgg16-d", "num_classes"), has_option("vgg16-d", "depth")
    (True, False)

    Raises:
        ValueError: If there is no such name, or the path can't be imported.
        TypeError: If the name is no string, or its class or function isn't declared to return a module.
    """
    parameters = _signature(_maker_of(name)).parameters.values()
    return any(parameter.kind is Parameter.VAR_KEYWORD or parameter.name == option for parameter in parameters)


def _maker_of(name: str) -> Callable[..., object]:
    if not isinstance(name, str):
        raise InvalidTypeError(
            expected="the name of a network",
            got=repr(name),
            cure=f"one of {', '.join(_PUBLISHED)}",
        )
    expected = f"the name of a network ({', '.join(_PUBLISHED)}) or an import path"
    maker = _PUBLISHED.get(name) or _CLASSES.get(name) or import_object(name, expected=expected)
    # Names come from checkpoints, too: one of unknown origin must not make us call arbitrary code.
    if not callable(maker) or not _makes_modules(maker):
        raise InvalidTypeError(
            expected=f"that {name!r} is a subclass of torch.nn.Module or a function annotated to return one",
            got=f"a {type(maker).__name__}",
            cure="annotate it (-> nn.Module), or give the module itself instead of a name",
        )
    return maker


def _makes_modules(maker: Callable[..., object]) -> bool:
    while isinstance(maker, partial):
        maker = maker.func
    try:
        made = maker if isinstance(maker, type) else get_type_hints(maker).get("return")
    except (AttributeError, NameError, TypeError):  # annotations that don't resolve, or none at all
        return False
    return isinstance(made, type) and issubclass(made, nn.Module)


def _signature(maker: Callable[..., object]) -> Signature:
    try:
        return signature(maker)
    except (TypeError, ValueError):  # some functions written in C have none
        return Signature([Parameter("options", Parameter.VAR_KEYWORD)])


def _check_options_accepted(name: str, accepted: Signature, options: dict[str, Any]) -> None:
    try:
        accepted.bind(**options)
    except TypeError as error:
        names = ", ".join(
            str(parameter.replace(annotation=parameter.empty)) for parameter in accepted.parameters.values()
        )
        raise InvalidValueError(
            expected=f"options of {name!r} from ({names})",
            got=f"{sorted(options)}: {error}",
            cure="use these",
        ) from error
