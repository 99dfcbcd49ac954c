"""The tables and figures of Dettmers & Zettlemoyer (2019) as lists of settings, with the numbers that they published.

Errors and accuracies are in percent, with the standard errors of the authors where they give them. Figure 2 and the
sensitivity analysis have their numbers from the authors' result files; everything else is in the paper.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_sparse.reproduction.setting import Setting

Measure = Literal["error", "accuracy", "accuracy_top5"]


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        weights: Active weights in percent.
        published: Mean in percent and standard error, or None where there is none.
        setting: What measures it here; None for what other methods published.
        dense: The dense network to compare with.
        base: The setting from which the published number is a difference.
        measure: What is measured.
    """

    weights: float
    published: tuple[float, float | None] | None = None
    setting: Setting | None = None
    dense: Setting | None = None
    base: Setting | None = None
    measure: Measure = "error"


@dataclass(frozen=True)
class Study:
    """A table or figure.

    Attributes:
        title: What it is, with its number in the paper.
        rows: Label and cells by column, in the paper's order.
        seeds: How many the paper has, or enough to see the effect.
        curve: Whether it is drawn over the percentage of weights.
    """

    title: str
    rows: Sequence[tuple[str, dict[str, Cell]]]
    seeds: int
    curve: bool = False

    @property
    def columns(self) -> list[str]:
        """The columns, in the order of their first use."""
        return list(dict.fromkeys(column for _, cells in self.rows for column in cells))

    def settings(self) -> list[Setting]:
        """Return every setting once, in the order of the rows; dense networks that cells compare with included."""
        cells = [cell for _, row in self.rows for cell in row.values() if cell.setting is not None]
        return list(dict.fromkeys(s for cell in cells for s in (cell.setting, cell.dense, cell.base) if s is not None))


def _vary(config: str, **changes: str | float) -> Setting:
    return Setting(config, tuple(sorted(changes.items())))


def _own(config: str, weights: float, published: tuple[float, float | None] | None, measure: Measure = "error") -> Cell:
    """A cell for `<config>_<weights>`, compared with `<config>_dense`."""
    dense = Setting(f"{config}_dense")
    if weights == 100:
        return Cell(weights, published, dense, measure=measure)
    return Cell(weights, published, Setting(f"{config}_{weights:g}"), dense, measure=measure)


def _others(column: str, *rows: tuple[str, float, float]) -> Iterable[tuple[str, dict[str, Cell]]]:
    return [(label, {column: Cell(weights, (error, None))}) for label, weights, error in rows]


_300, _5 = "LeNet-300-100", "LeNet-5 Caffe"


def _table1() -> Study:
    lenet300 = {100: (1.34, 0.011), 1: (2.36, 0.044), 2: (1.99, 0.019), 5: (1.53, 0.020), 20: (1.26, 0.017)}
    lenet5 = {100: (0.58, 0.010), 1: (0.83, 0.040), 2: (0.76, 0.022), 5: (0.69, 0.021), 20: (0.60, 0.013)}
    compared = [
        ("Optimal brain damage (LeCun et al., 1989)", (8.0, 2.0), (8.0, 2.7)),
        ("Layer-wise brain damage (Dong et al., 2017)", (1.5, 2.0), (1.0, 2.1)),
        ("Compression via optimization (Carreira-Perpinan & Idelbayev, 2018)", (1.0, 3.2), (1.0, 1.1)),
        ("Single-shot pruning (Lee et al., 2019)", (2.0, 2.4), (1.0, 1.1)),
        ("Soft weight-sharing (Ullrich et al., 2017)", (4.4, 1.9), (0.5, 1.0)),
        ("Dynamic network surgery (Guo et al., 2016)", (1.8, 2.0), (0.9, 0.9)),
        ("Learning weights and connections (Han et al., 2015)", (8.3, 1.6), (9.3, 0.8)),
        ("Single-shot pruning (Lee et al., 2019)", (5.0, 1.6), (2.0, 0.8)),
        ("Variational dropout (Molchanov et al., 2017)", (1.5, 1.9), (0.4, 0.8)),
    ]
    ours = [
        (
            "dense" if weights == 100 else "sparse momentum",
            {
                _300: _own("mnist_lenet300", weights, lenet300[weights]),
                _5: _own("mnist_lenet5", weights, lenet5[weights]),
            },
        )
        for weights in lenet300
    ]
    theirs = [
        (label, {_300: Cell(first[0], (first[1], None)), _5: Cell(second[0], (second[1], None))})
        for label, first, second in compared
    ]
    return Study("Table 1: test error (%) on MNIST", [ours[0], *theirs, *ours[1:]], seeds=10)


def _table2() -> Study:
    models = {
        # weights %, dense, SNIP, sparse momentum
        "AlexNet-s": ("alexnet_s", 10, (12.95, 0.056), 14.99, (14.35, 0.057)),
        "AlexNet-b": ("alexnet_b", 10, (12.85, 0.068), 14.50, (13.93, 0.048)),
        "VGG16-C": ("vgg16_c", 5, (6.49, 0.038), 7.27, (6.77, 0.056)),
        "VGG16-D": ("vgg16_d", 5, (6.59, 0.050), 7.09, (6.49, 0.045)),
        "VGG16-like": ("vgg16_like", 3, (6.50, 0.054), 8.00, (6.71, 0.046)),
        "WRN-16-8": ("wrn_16_8", 5, (4.57, 0.022), 6.63, (5.66, 0.054)),
        "WRN-16-10": ("wrn_16_10", 5, (4.45, 0.040), 6.43, (4.59, 0.043)),
        "WRN-22-8": ("wrn_22_8", 5, (4.26, 0.032), 5.85, (4.96, 0.042)),
    }
    rows = [
        (
            model,
            {
                "dense": _own(f"cifar10_{name}", 100, dense),
                "SNIP": Cell(weights, (snip, None)),
                "sparse momentum": _own(f"cifar10_{name}", weights, momentum),
            },
        )
        for model, (name, weights, dense, snip, momentum) in models.items()
    ]
    return Study("Table 2: test error (%) on CIFAR-10", rows, seeds=10)


def _table3() -> Study:
    columns: tuple[tuple[str, int, Measure], ...] = (
        ("10 %, top-1", 10, "accuracy"),
        ("10 %, top-5", 10, "accuracy_top5"),
        ("20 %, top-1", 20, "accuracy"),
        ("20 %, top-5", 20, "accuracy_top5"),
    )
    compared = {
        "static sparse (Mostafa & Wang, 2019)": (67.8, 88.4, 71.6, 90.4),
        "thin dense (Mostafa & Wang, 2019)": (70.7, 89.9, 72.4, 90.9),
        "DEEP-R (Bellec et al., 2018)": (70.2, 90.0, 71.7, 90.6),
        "compressed sparse (Mostafa & Wang, 2019)": (70.3, 90.0, 73.2, 91.5),
        "sparse evolutionary training (Mocanu et al., 2018)": (70.4, 90.1, 72.6, 91.2),
        "dynamic sparse (Mostafa & Wang, 2019)": (71.6, 90.5, 73.3, 92.4),
    }
    name = "imagenet_resnet50"
    dense = {
        column: _own(name, 100, (value, None), measure=measure)
        for (column, _, measure), value in zip(columns, (79.3, 94.8, 79.3, 94.8), strict=True)
    }
    others = [
        (
            label,
            {
                column: Cell(weights, (value, None), measure=measure)
                for (column, weights, measure), value in zip(columns, values, strict=True)
            },
        )
        for label, values in compared.items()
    ]
    ours = {
        column: _own(name, weights, (value, None), measure=measure)
        for (column, weights, measure), value in zip(columns, (73.1, 91.5, 74.9, 92.5), strict=True)
    }
    rows = [("dense (He et al., 2016)", dense), *others, ("sparse momentum", ours)]
    return Study("Table 3: validation accuracy (%) on ImageNet, ResNet-50", rows, seeds=1)


def _table5() -> Study:
    columns = {
        "VGG16-D, CIFAR-10": ("cifar10_vgg16_d_5", (6.49, 0.045), (-0.15, 0.054), (0.79, 0.082), (0.49, 0.060)),
        f"{_300}, MNIST": ("mnist_lenet300_5", (1.53, 0.020), (0.07, 0.022), (0.01, 0.018), (0.11, 0.020)),
        f"{_5}, MNIST": ("mnist_lenet5_5", (0.69, 0.021), (-0.05, 0.011), (0.32, 0.071), (0.13, 0.013)),
    }
    rows: list[tuple[str, dict[str, Cell]]] = []
    for index, (redistribution, growth) in enumerate(
        (("momentum", "momentum"), ("momentum", "random"), ("none", "momentum"), ("none", "random"))
    ):
        cells = {}
        for column, (config, *published) in columns.items():
            base = Setting(config)
            changes = {"redistribution": redistribution, "growth": growth}
            changed = _vary(config, **{key: value for key, value in changes.items() if value != "momentum"})
            cells[column] = Cell(5, published[index], changed, base=base if index else None)
        rows.append((f"redistribution {redistribution}, growth {growth}", cells))
    return Study("Table 5: test error (%) at 5 % weights, and differences from the first row", rows, seeds=5)


def _figure2() -> Study:
    mnist = {
        100: (98.69, 0.0106),
        1: (97.53, 0.0470),
        2: (98.20, 0.0180),
        3: (98.30, 0.0546),
        4: (98.42, 0.0232),
        5: (98.53, 0.0329),
        10: (98.67, 0.0263),
    }
    cifar = {100: 94.70, 10: 93.61, 20: 94.32, 30: 94.58, 40: 94.68, 50: 94.75}
    rows: list[tuple[str, dict[str, Cell]]] = []
    for weights in sorted({*mnist, *cifar}, reverse=True):
        cells = {}
        if weights in mnist:
            name = "mostafa_mnist_lenet300"
            cells[f"{_300}, MNIST"] = _own(name, weights, mnist[weights], measure="accuracy")
        if weights in cifar:
            name = "mostafa_cifar10_wrn_28_2"
            cells["WRN-28-2, CIFAR-10"] = _own(name, weights, (cifar[weights], None), measure="accuracy")
        rows.append(("dense" if weights == 100 else "sparse momentum", cells))
    return Study("Figure 2: test accuracy (%) in the setting of Mostafa & Wang (2019)", rows, seeds=3, curve=True)


def _sensitivity() -> Study:
    momenta = (0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
    by_momentum = {
        "AlexNet-s": (
            ("cifar10_alexnet_s", 10),
            (23.5, 15.3, 14.5, 14.2, 14.7, 15.0, 15.3),
            (22.7, 14.1, 12.7, 12.7, 12.8, 12.9, 13.1),
        ),
        "VGG16-D": (
            ("cifar10_vgg16_d", 5),
            (38.7, 7.2, 6.6, 6.5, 6.5, 6.9, 6.8),
            (36.8, 7.7, 6.6, 6.4, 6.5, 6.5, 6.5),
        ),
    }
    by_rate = {
        "AlexNet-s": (14.9, 14.8, 14.5, 14.3, 14.3, 14.2),
        "VGG16-D": (6.7, 6.5, 6.7, 6.5, 6.4, 6.4),
    }
    rows: list[tuple[str, dict[str, Cell]]] = []
    for index, momentum in enumerate(momenta):
        cells = {}
        for model, ((config, weights), sparse, dense) in by_momentum.items():
            changes = {} if momentum == 0.9 else {"momentum": momentum}
            full = _vary(f"{config}_dense", **changes)
            cells[f"{model}, sparse"] = Cell(
                weights, (sparse[index], None), _vary(f"{config}_{weights}", **changes), full
            )
            cells[f"{model}, dense"] = Cell(100, (dense[index], None), full)
        rows.append((f"momentum {momentum:g}", cells))
    for index, rate in enumerate((0.7, 0.6, 0.5, 0.4, 0.3, 0.2)):
        changes = {} if rate == 0.5 else {"prune_rate": rate}
        cells = {
            f"{model}, sparse": Cell(
                by_momentum[model][0][1],
                (errors[index], None),
                _vary("{}_{}".format(*by_momentum[model][0]), **changes),
                Setting(f"{by_momentum[model][0][0]}_dense"),
            )
            for model, errors in by_rate.items()
        }
        rows.append((f"prune rate {rate:g}", cells))
    return Study("Sensitivity: test error (%) on CIFAR-10 over momentum and prune rate", rows, seeds=3)


def _regrowth() -> Study:
    """What a weight that is pruned and regrown in one update starts from: the authors' text and their code differ."""
    kept, zero = Setting("mnist_lenet300_5"), _vary("mnist_lenet300_5", keep_regrown="false")
    rows = [
        ("its value (the authors' code)", {_300: Cell(5, (1.53, 0.020), kept)}),
        ("zero (their text)", {_300: Cell(5, None, zero)}),
    ]
    return Study("Test error (%) on MNIST by what pruned and regrown weights start from", rows, seeds=3)


STUDIES = {
    "table1": _table1(),
    "table2": _table2(),
    "table3": _table3(),
    "table5": _table5(),
    "figure2": _figure2(),
    "sensitivity": _sensitivity(),
    "regrowth": _regrowth(),
}
