"""Figure 2 of Dettmers & Zettlemoyer (2019), and additions of their repository: more of Table 1, and sensitivity.

Published numbers are in percent and from the CSV files in results/ of github.com/TimDettmers/sparse_learning, which
have fractions or hundredths of a percent.
"""

from __future__ import annotations

from lightning_sparse.experiments.setting import Setting
from lightning_sparse.reproduction.paper_tables import LEFT_DENSE, LENET5, LENET300, LITERATURE
from lightning_sparse.reproduction.study import Cell, Published, Study, measured_cell, published_cell, variant

_METHODS = ("dynamic sparse (Mostafa & Wang, 2019)", "SET (Mocanu et al., 2018)", "DEEP-R (Bellec et al., 2018)")
# By percentage of weights: sparse momentum, then the methods above.
_FIGURE2 = {
    f"{LENET300}, MNIST": (
        "mostafa_mnist_lenet300",
        "98.69 +- 0.0106094",
        {
            1: ("97.53 +- 0.0469515", "97.54 +- 0.0157", "95.80 +- 0.0451", "94.00 +- 0.01"),
            2: ("98.20 +- 0.017966", "98.14 +- 0.064", "97.74096 +- 0.07068877551", "98.21 +- 0.135"),
            3: ("98.30 +- 0.0546148", "98.20 +- 0.023", "98.06024 +- 0.03380612245", "98.22 +- 0.0451"),
            4: ("98.42 +- 0.023202", "98.23 +- 0.023", "98.09639 +- 0.03688265306", "98.30 +- 0.0574"),
            5: ("98.53 +- 0.0329309", "98.32 +- 0.038", "98.14458", "98.06 +- 0.0451"),
            10: ("98.67 +- 0.02625101", "98.44 +- 0.045", "98.39157 +- 0.03688265306", "98.19 +- 0.0451"),
        },
    ),
    "WRN-28-2, CIFAR-10": (
        "mostafa_cifar10_wrn_28_2",
        "94.70 +- 0.05078176719",
        {
            10: ("93.614 +- 0.0468", "93.59 +- 0.078", "93.28 +- 0.055", "91.41 +- 0.057"),
            20: ("94.324 +- 0.0549", "94.40 +- 0.051", "94.25 +- 0.066", "92.36 +- 0.083"),
            30: ("94.576 +- 0.0478", "94.57 +- 0.053", "94.40 +- 0.089", "92.50 +- 0.100"),
            40: ("94.6775 +- 0.0595", "94.66 +- 0.052", "94.55 +- 0.064", "92.80 +- 0.038"),
            50: ("94.7487 +- 0.0403", "94.73 +- 0.046", "94.76 +- 0.040", "92.92 +- 0.082"),
        },
    ),
}

# Methods that the repository has beyond Table 1.
_FURTHER = (
    ("Targeted dropout (Gomez et al., 2018)", (5.0, "3.13"), (5.0, "1.96")),
    ("Targeted dropout (Gomez et al., 2018)", (2.0, "3.77"), (10.0, "1.95")),
)
# At the percentages of weights of the other methods, to compare with each.
_AT_EQUAL_WEIGHTS = {
    LENET300: (
        "mnist_lenet300",
        {
            100: "1.34 +- 0.011",
            1: "2.36 +- 0.044",
            1.5: "2.053 +- 0.032",
            1.8: "1.984 +- 0.053",
            2: "1.99 +- 0.019",
            4.4: "1.552 +- 0.027",
            5: "1.53 +- 0.020",
            8: "1.447 +- 0.014",
            8.3: "1.426 +- 0.020",
        },
    ),
    LENET5: (
        "mnist_lenet5",
        {
            100: "0.58 +- 0.010",
            0.4: "1.403 +- 0.088",
            0.5: "1.144 +- 0.024",
            0.9: "0.894 +- 0.033",
            1: "0.83 +- 0.040",
            2: "0.76 +- 0.022",
            5: "0.69 +- 0.021",
            8: "0.645 +- 0.019",
            9.3: "0.642 +- 0.030",
        },
    ),
}
_SHIPPED = (1, 2, 5, 100)

_MODELS = {"AlexNet-s": ("cifar10_alexnet_s", 10), "VGG16-D": ("cifar10_vgg16_d", 5)}
# By momentum: sparse and dense, of each model.
_MOMENTA = {
    0.99: {
        "AlexNet-s": ("23.465 +- 0.227", "22.732 +- 0.253"),
        "VGG16-D": ("38.664 +- 8.052", "36.837 +- 6.096"),
    },
    0.95: {"AlexNet-s": ("15.292 +- 0.115", "14.137 +- 0.138"), "VGG16-D": ("7.172 +- 0.094", "7.650 +- 0.082")},
    0.9: {"AlexNet-s": ("14.498 +- 0.044", "12.683 +- 0.156"), "VGG16-D": ("6.637 +- 0.093", "6.557 +- 0.058")},
    0.8: {"AlexNet-s": ("14.248 +- 0.154", "12.655 +- 0.057"), "VGG16-D": ("6.525 +- 0.110", "6.410 +- 0.057")},
    0.7: {"AlexNet-s": ("14.690 +- 0.064", "12.793 +- 0.056"), "VGG16-D": ("6.490 +- 0.049", "6.518 +- 0.061")},
    0.6: {"AlexNet-s": ("14.998 +- 0.109", "12.938 +- 0.075"), "VGG16-D": ("6.903 +- 0.040", "6.522 +- 0.042")},
    0.5: {"AlexNet-s": ("15.285 +- 0.083", "13.102 +- 0.072"), "VGG16-D": ("6.787 +- 0.057", "6.523 +- 0.082")},
}
# By initial prune rate, with the cosine schedule.
_PRUNE_RATES = {
    0.7: {"AlexNet-s": "14.943 +- 0.188", "VGG16-D": "6.712 +- 0.056"},
    0.6: {"AlexNet-s": "14.758 +- 0.058", "VGG16-D": "6.483 +- 0.043"},
    0.5: {"AlexNet-s": "14.523 +- 0.052", "VGG16-D": "6.673 +- 0.075"},
    0.4: {"AlexNet-s": "14.280 +- 0.095", "VGG16-D": "6.507 +- 0.079"},
    0.3: {"AlexNet-s": "14.295 +- 0.122", "VGG16-D": "6.412 +- 0.053"},
    0.2: {"AlexNet-s": "14.217 +- 0.133", "VGG16-D": "6.387 +- 0.040"},
}


def figure2() -> Study:
    """Sparse momentum beside other methods of sparse training, in the setting of Mostafa & Wang."""
    dense = {column: measured_cell(name, 100, text, "accuracy") for column, (name, text, _) in _FIGURE2.items()}
    rows: list[tuple[str, dict[str, Cell]]] = [("dense", dense)]
    for weights in sorted({weights for _, _, texts in _FIGURE2.values() for weights in texts}, reverse=True):
        measured = {column: entry for column, entry in _FIGURE2.items() if weights in entry[2]}
        ours = {
            column: measured_cell(name, weights, texts[weights][0], "accuracy")
            for column, (name, _, texts) in measured.items()
        }
        rows.append(("sparse momentum", ours))
        for index, method in enumerate(_METHODS, 1):
            cells = {
                c: published_cell(weights, texts[weights][index], "accuracy") for c, (_, _, texts) in measured.items()
            }
            rows.append((method, cells))
    title = "Figure 2: test accuracy (%) in the setting of Mostafa & Wang (2019)"
    note = "The published numbers are those of the authors' result files, which their script for it draws."
    return Study(title, rows, seeds=3, note=note, curve="linear")


def compression() -> Study:
    """Table 1 at the percentage of weights of each method of compression."""
    literature = [
        (label, {LENET300: published_cell(*first), LENET5: published_cell(*second)})
        for label, first, second in (*LITERATURE, *_FURTHER)
    ]
    ours: list[tuple[str, dict[str, Cell]]] = []
    for weights in sorted({weights for _, texts in _AT_EQUAL_WEIGHTS.values() for weights in texts}):
        cells = {
            column: _at(name, weights, texts[weights])
            for column, (name, texts) in _AT_EQUAL_WEIGHTS.items()
            if weights in texts
        }
        ours.append(("dense" if weights == 100 else "sparse momentum", cells))
    note = """\
Table 1 of the paper has a part of this; targeted dropout and the other percentages of sparse momentum are only
in the authors' result files, of later in July 2019."""
    title = "Test error (%) on MNIST beside methods of compression, at the weights of each"
    return Study(title, [ours[-1], *literature, *ours[:-1]], seeds=3, note=note, curve="log")


def _at(name: str, weights: float, published: str) -> Cell:
    """Return a cell for a percentage of weights, whether or not it has a configuration of its own."""
    if weights in _SHIPPED:
        return measured_cell(name, weights, published)
    # Rounded: 4.4 / 100 is not 0.044, and settings are known by their text.
    changed = variant(f"{name}_5", density=round(weights / 100, 6))
    return Cell(weights, Published(published), changed, Setting(f"{name}_dense"))


def sensitivity() -> Study:
    """Sensitivity to momentum and prune rate."""
    rows: list[tuple[str, dict[str, Cell]]] = []
    for momentum, texts in _MOMENTA.items():
        changes = {} if momentum == 0.9 else {"momentum": momentum}
        cells = {}
        for model, (name, weights) in _MODELS.items():
            sparse, dense = map(Published, texts[model])
            full = variant(f"{name}_dense", **changes)
            cells[f"{model}, sparse"] = Cell(weights, sparse, variant(f"{name}_{weights}", **changes), full)
            cells[f"{model}, dense"] = Cell(100, dense, full)
        rows.append((f"momentum {momentum:g}", cells))
    for rate, errors in _PRUNE_RATES.items():
        changes = {} if rate == 0.5 else {"prune_rate": rate}
        cells = {}
        for model, (name, weights) in _MODELS.items():
            changed = variant(f"{name}_{weights}", **changes)
            cells[f"{model}, sparse"] = Cell(weights, Published(errors[model]), changed, Setting(f"{name}_dense"))
        rows.append((f"prune rate {rate:g}", cells))
    title = "Sensitivity: test error (%) on CIFAR-10 over momentum and prune rate"
    note = f"""\
Momentum 0.9 and prune rate 0.5 are the same setting; the authors' files have it twice, from different runs.

{LEFT_DENSE}"""
    return Study(title, rows, seeds=3, note=note)
