"""What is published, typed a second time: from the text of the paper, and from the CSV files of the authors.

Every line is a row: its label, then for each column the percentage of weights, the number and, if there is one, its
standard error.
"""

from __future__ import annotations

from collections.abc import Iterator

# Row, column and percentage of weights.
Place = tuple[str, str, float]
# Mean and standard error.
Number = tuple[str, str | None]

LENETS = ("LeNet-300-100", "LeNet-5 Caffe")

TABLE1 = """
dense                                                              | 100  1.34 0.011 | 100  0.58 0.010
Optimal brain damage (LeCun et al., 1989)                          | 8    2.0        | 8    2.7
Layer-wise brain damage (Dong et al., 2017)                        | 1.5  2.0        | 1    2.1
Compression via optimization (Carreira-Perpinan & Idelbayev, 2018) | 1    3.2        | 1    1.1
Single-shot pruning (Lee et al., 2019)                             | 2    2.4        | 1    1.1
Soft weight-sharing (Ullrich et al., 2017)                         | 4.4  1.9        | 0.5  1.0
Dynamic network surgery (Guo et al., 2016)                         | 1.8  2.0        | 0.9  0.9
Learning weights and connections (Han et al., 2015)                | 8.3  1.6        | 9.3  0.8
Single-shot pruning (Lee et al., 2019)                             | 5    1.6        | 2    0.8
Variational dropout (Molchanov et al., 2017)                       | 1.5  1.9        | 0.4  0.8
sparse momentum                                                    | 1    2.36 0.044 | 1    0.83 0.040
sparse momentum                                                    | 2    1.99 0.019 | 2    0.76 0.022
sparse momentum                                                    | 5    1.53 0.020 | 5    0.69 0.021
sparse momentum                                                    | 20   1.26 0.017 | 20   0.60 0.013
"""

TABLE2 = """
AlexNet-s  | 100 12.95 0.056 | 10 14.99 | 10 14.35 0.057
AlexNet-b  | 100 12.85 0.068 | 10 14.50 | 10 13.93 0.048
VGG16-C    | 100  6.49 0.038 |  5  7.27 |  5  6.77 0.056
VGG16-D    | 100  6.59 0.050 |  5  7.09 |  5  6.49 0.045
VGG16-like | 100  6.50 0.054 |  3  8.00 |  3  6.71 0.046
WRN-16-8   | 100  4.57 0.022 |  5  6.63 |  5  5.66 0.054
WRN-16-10  | 100  4.45 0.040 |  5  6.43 |  5  4.59 0.043
WRN-22-8   | 100  4.26 0.032 |  5  5.85 |  5  4.96 0.042
"""

# The same numbers at the percentages that follow from the authors' code; test_studies.py counts them.
TABLE2_AS_CODED = """
AlexNet-s  | 100 12.95 0.056 | 26 14.35 0.057
AlexNet-b  | 100 12.85 0.068 | 19 13.93 0.048
VGG16-C    | 100  6.49 0.038 | 16  6.77 0.056
VGG16-D    | 100  6.59 0.050 | 26  6.49 0.045
VGG16-like | 100  6.50 0.054 | 25  6.71 0.046
"""

TABLE3 = """
dense (He et al., 2016)                            | 100 79.3 | 100 94.8 | 100 79.3 | 100 94.8
static sparse (Mostafa & Wang, 2019)               |  10 67.8 |  10 88.4 |  20 71.6 |  20 90.4
thin dense (Mostafa & Wang, 2019)                  |  10 70.7 |  10 89.9 |  20 72.4 |  20 90.9
DEEP-R (Bellec et al., 2018)                       |  10 70.2 |  10 90.0 |  20 71.7 |  20 90.6
compressed sparse (Mostafa & Wang, 2019)           |  10 70.3 |  10 90.0 |  20 73.2 |  20 91.5
sparse evolutionary training (Mocanu et al., 2018) |  10 70.4 |  10 90.1 |  20 72.6 |  20 91.2
dynamic sparse (Mostafa & Wang, 2019)              |  10 71.6 |  10 90.5 |  20 73.3 |  20 92.4
sparse momentum                                    |  10 73.1 |  10 91.5 |  20 74.9 |  20 92.5
"""

TABLE5 = """
redistribution momentum, growth momentum | 5  6.49 0.045 | 5  1.53 0.020 | 5  0.69 0.021
redistribution momentum, growth random   | 5 -0.15 0.054 | 5 +0.07 0.022 | 5 -0.05 0.011
redistribution none, growth momentum     | 5 +0.79 0.082 | 5 +0.01 0.018 | 5 +0.32 0.071
redistribution none, growth random       | 5 +0.49 0.060 | 5 +0.11 0.020 | 5 +0.13 0.013
"""

REGROWTH = """
its value (the authors' code) | 5 1.53 0.020
"""

# MNIST_sparse_summary.csv, in fractions; there by sparsity.
FIGURE2_MNIST = """
dense                                 | 100 0.9869    0.000106094
sparse momentum                       |   1 0.9753    0.000469515
sparse momentum                       |   2 0.982     0.00017966
sparse momentum                       |   3 0.983     0.000546148
sparse momentum                       |   4 0.9842    0.00023202
sparse momentum                       |   5 0.9853    0.000329309
sparse momentum                       |  10 0.9867    0.0002625101
dynamic sparse (Mostafa & Wang, 2019) |   1 0.9754    0.000157
dynamic sparse (Mostafa & Wang, 2019) |   2 0.9814    0.00064
dynamic sparse (Mostafa & Wang, 2019) |   3 0.9820    0.00023
dynamic sparse (Mostafa & Wang, 2019) |   4 0.9823    0.00023
dynamic sparse (Mostafa & Wang, 2019) |   5 0.9832    0.00038
dynamic sparse (Mostafa & Wang, 2019) |  10 0.9844    0.00045
SET (Mocanu et al., 2018)             |   1 0.958     0.000451
SET (Mocanu et al., 2018)             |   2 0.9774096 0.0007068877551
SET (Mocanu et al., 2018)             |   3 0.9806024 0.0003380612245
SET (Mocanu et al., 2018)             |   4 0.9809639 0.0003688265306
SET (Mocanu et al., 2018)             |   5 0.9814458
SET (Mocanu et al., 2018)             |  10 0.9839157 0.0003688265306
DEEP-R (Bellec et al., 2018)          |   1 0.94      0.0001
DEEP-R (Bellec et al., 2018)          |   2 0.9821    0.00135
DEEP-R (Bellec et al., 2018)          |   3 0.9822    0.000451
DEEP-R (Bellec et al., 2018)          |   4 0.983     0.000574
DEEP-R (Bellec et al., 2018)          |   5 0.9806    0.000451
DEEP-R (Bellec et al., 2018)          |  10 0.9819    0.000451
"""

# WRN-28-2_results_summary.csv, in hundredths of a percent.
FIGURE2_CIFAR10 = """
dense                                 | 100 9470    5.078176719
sparse momentum                       |  10 9361.4  4.68
sparse momentum                       |  20 9432.4  5.49
sparse momentum                       |  30 9457.6  4.78
sparse momentum                       |  40 9467.75 5.95
sparse momentum                       |  50 9474.87 4.03
dynamic sparse (Mostafa & Wang, 2019) |  10 9359    7.8
dynamic sparse (Mostafa & Wang, 2019) |  20 9440    5.1
dynamic sparse (Mostafa & Wang, 2019) |  30 9457    5.3
dynamic sparse (Mostafa & Wang, 2019) |  40 9466    5.2
dynamic sparse (Mostafa & Wang, 2019) |  50 9473    4.6
SET (Mocanu et al., 2018)             |  10 9328    5.5
SET (Mocanu et al., 2018)             |  20 9425    6.6
SET (Mocanu et al., 2018)             |  30 9440    8.9
SET (Mocanu et al., 2018)             |  40 9455    6.4
SET (Mocanu et al., 2018)             |  50 9476    4.0
DEEP-R (Bellec et al., 2018)          |  10 9141    5.7
DEEP-R (Bellec et al., 2018)          |  20 9236    8.3
DEEP-R (Bellec et al., 2018)          |  30 9250    10.0
DEEP-R (Bellec et al., 2018)          |  40 9280    3.8
DEEP-R (Bellec et al., 2018)          |  50 9292    8.2
"""

# MNIST_compression_comparison_lenet300-100.csv and -lenet5.csv; the dense networks are Table 1's.
COMPRESSION_LENET300 = """
dense                                                              | 100 1.34  0.011
Optimal brain damage (LeCun et al., 1989)                          | 8   2
Layer-wise brain damage (Dong et al., 2017)                        | 1.5 2
Compression via optimization (Carreira-Perpinan & Idelbayev, 2018) | 1   3.2
Single-shot pruning (Lee et al., 2019)                             | 2   2.4
Soft weight-sharing (Ullrich et al., 2017)                         | 4.4 1.9
Dynamic network surgery (Guo et al., 2016)                         | 1.8 2
Learning weights and connections (Han et al., 2015)                | 8.3 1.6
Single-shot pruning (Lee et al., 2019)                             | 5   1.6
Variational dropout (Molchanov et al., 2017)                       | 1.5 1.9
Targeted dropout (Gomez et al., 2018)                              | 5   3.13
Targeted dropout (Gomez et al., 2018)                              | 2   3.77
sparse momentum                                                    | 1   2.36  0.044
sparse momentum                                                    | 1.5 2.053 0.032
sparse momentum                                                    | 1.8 1.984 0.053
sparse momentum                                                    | 2   1.99  0.019
sparse momentum                                                    | 4.4 1.552 0.027
sparse momentum                                                    | 5   1.53  0.02
sparse momentum                                                    | 8   1.447 0.014
sparse momentum                                                    | 8.3 1.426 0.02
"""
COMPRESSION_LENET5 = """
dense                                                              | 100 0.58  0.010
Optimal brain damage (LeCun et al., 1989)                          | 8   2.7
Layer-wise brain damage (Dong et al., 2017)                        | 1   2.1
Single-shot pruning (Lee et al., 2019)                             | 1   1.1
Soft weight-sharing (Ullrich et al., 2017)                         | 0.5 1
Dynamic network surgery (Guo et al., 2016)                         | 0.9 0.9
Learning weights and connections (Han et al., 2015)                | 9.3 0.8
Single-shot pruning (Lee et al., 2019)                             | 2   0.8
Compression via optimization (Carreira-Perpinan & Idelbayev, 2018) | 1   1.1
Variational dropout (Molchanov et al., 2017)                       | 0.4 0.8
Targeted dropout (Gomez et al., 2018)                              | 5   1.96
Targeted dropout (Gomez et al., 2018)                              | 10  1.95
sparse momentum                                                    | 0.4 1.403 0.088
sparse momentum                                                    | 0.5 1.144 0.024
sparse momentum                                                    | 0.9 0.894 0.033
sparse momentum                                                    | 1   0.83  0.04
sparse momentum                                                    | 2   0.76  0.022
sparse momentum                                                    | 5   0.69  0.021
sparse momentum                                                    | 8   0.645 0.019
sparse momentum                                                    | 9.3 0.642 0.03
"""

# sensitivity_momentum_alexnet-s.csv and -vgg-d.csv, means in fractions.
SENSITIVITY_MOMENTUM_ALEXNET = """
momentum 0.99 | 10 0.23465 0.00227 | 100 0.22732 0.00253
momentum 0.95 | 10 0.15292 0.00115 | 100 0.14137 0.00138
momentum 0.9  | 10 0.14498 0.00044 | 100 0.12683 0.00156
momentum 0.8  | 10 0.14248 0.00154 | 100 0.12655 0.00057
momentum 0.7  | 10 0.1469  0.00064 | 100 0.12793 0.00056
momentum 0.6  | 10 0.14998 0.00109 | 100 0.12938 0.00075
momentum 0.5  | 10 0.15285 0.00083 | 100 0.13102 0.00072
"""
SENSITIVITY_MOMENTUM_VGG16 = """
momentum 0.99 | 5 0.38664 0.08052 | 100 0.36837 0.06096
momentum 0.95 | 5 0.07172 0.00094 | 100 0.0765  0.00082
momentum 0.9  | 5 0.06637 0.00093 | 100 0.06557 0.00058
momentum 0.8  | 5 0.06525 0.0011  | 100 0.0641  0.00057
momentum 0.7  | 5 0.0649  0.00049 | 100 0.06518 0.00061
momentum 0.6  | 5 0.06903 0.0004  | 100 0.06522 0.00042
momentum 0.5  | 5 0.06787 0.00057 | 100 0.06523 0.00082
"""
# sensitivity_prune_rate_alexnet-s.csv and -vgg-d.csv, cosine means in fractions.
SENSITIVITY_PRUNE_RATE = """
prune rate 0.7 | 10 0.14943 0.00188 | 5 0.06712 0.00056
prune rate 0.6 | 10 0.14758 0.00058 | 5 0.06483 0.00043
prune rate 0.5 | 10 0.14523 0.00052 | 5 0.06673 0.00075
prune rate 0.4 | 10 0.1428  0.00095 | 5 0.06507 0.00079
prune rate 0.3 | 10 0.14295 0.00122 | 5 0.06412 0.00053
prune rate 0.2 | 10 0.14217 0.00133 | 5 0.06387 0.0004
"""

# Of the paper's own tables, the text is held, with its decimals.
PRINTED: dict[str, tuple[str, tuple[str, ...]]] = {
    "table1": (TABLE1, LENETS),
    "table2": (TABLE2, ("dense", "SNIP", "sparse momentum")),
    "table2_as_coded": (TABLE2_AS_CODED, ("dense", "sparse momentum, convolutions left dense")),
    "table3": (TABLE3, ("10 %, top-1", "10 %, top-5", "20 %, top-1", "20 %, top-5")),
    "table5": (TABLE5, ("VGG16-D, CIFAR-10", "LeNet-300-100, MNIST", "LeNet-5 Caffe, MNIST")),
    "regrowth": (REGROWTH, LENETS[:1]),
}
# Of the result files, the numbers; with what makes them percent.
IN_FILES: dict[str, list[tuple[str, tuple[str, ...], float]]] = {
    "figure2": [
        (FIGURE2_MNIST, ("LeNet-300-100, MNIST",), 100),
        (FIGURE2_CIFAR10, ("WRN-28-2, CIFAR-10",), 0.01),
    ],
    "compression": [(COMPRESSION_LENET300, LENETS[:1], 1), (COMPRESSION_LENET5, LENETS[1:], 1)],
    "sensitivity": [
        (SENSITIVITY_MOMENTUM_ALEXNET, ("AlexNet-s, sparse", "AlexNet-s, dense"), 100),
        (SENSITIVITY_MOMENTUM_VGG16, ("VGG16-D, sparse", "VGG16-D, dense"), 100),
        (SENSITIVITY_PRUNE_RATE, ("AlexNet-s, sparse", "VGG16-D, sparse"), 100),
    ],
}


def read(table: str, columns: tuple[str, ...]) -> Iterator[tuple[Place, Number]]:
    """Yield the cells of a table."""
    for line in table.strip().splitlines():
        label, *cells = (part.strip() for part in line.split("|"))
        for column, cell in zip(columns, cells, strict=True):
            weights, mean, *error = cell.split()
            yield (label, column, float(weights)), (mean, error[0] if error else None)
