"""scikit-learn's digits: 1,797 handwritten digits of 8 x 8 pixels, which need no download."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_sparse.data.arrays import ImageArrays, image_arrays
from lightning_sparse.data.datamodule import InMemoryDataModule
from lightning_sparse.validation.numbers import check_real


class DigitsDataModule(InMemoryDataModule):
    """scikit-learn's digits: images of shape ``(1, 8, 8)`` with 17 grey levels, small enough for a laptop test.

    Args:
        test_fraction: Fraction of the 1,797 images in the test split, from 0.006 to 0.994, so that both splits have
            images of every class. The split is fixed, and stratified by class.
        **options: Options of `InMemoryDataModule`.

    Raises:
        ValueError: If an option is outside its range.
    """

    def __init__(self, *, test_fraction: float = 0.2, **options: Any) -> None:
        super().__init__(**options)
        # A split of fewer than 10 images can't be stratified.
        cure = "give the fraction of the images in the test split, such as 0.2"
        check_real(test_fraction, 0.006, 0.994, expected="0.006 <= test_fraction <= 0.994", cure=cure)
        self.test_fraction: float = test_fraction

    def _load(self) -> ImageArrays:
        # Here, because scikit-learn takes a second to import and only this needs it.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images, labels = digits.images.astype(np.uint8), digits.target
        parts = train_test_split(images, labels, test_size=self.test_fraction, stratify=labels, random_state=0)
        x_train, x_test, y_train, y_test = parts
        # Grey levels go from 0 to 16.
        return image_arrays(x_train, y_train, x_test, y_test, num_classes=10)._replace(white=16.0)
