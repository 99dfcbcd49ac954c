"""scikit-learn's digits: 1,797 handwritten digits of 8 x 8 pixels, which need no download."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from lightning_sparse.data.arrays import ImageArrays, image_arrays
from lightning_sparse.data.datamodule import InMemoryDataModule
from lightning_sparse.validation.errors import InvalidValueError


class DigitsDataModule(InMemoryDataModule):
    """scikit-learn's digits: images of shape ``(1, 8, 8)`` with 17 grey levels, small enough for a laptop test.

    Args:
        test_fraction: Share of the 1,797 images that are test images, from 0.006 to 0.994, so that either
            has one of every class. Which ones is fixed, with
            the same share of every class.
        **options: Those of `InMemoryDataModule`.

    Raises:
        ValueError: If an option is outside its range.
    """

    def __init__(self, *, test_fraction: float = 0.2, **options: Any) -> None:
        super().__init__(**options)
        # Fewer than 10 images on a side could not have the same share of every class.
        if not isinstance(test_fraction, Real) or not 0.006 <= test_fraction <= 0.994:
            raise InvalidValueError(
                expected="0.006 <= test_fraction <= 0.994",
                got=repr(test_fraction),
                cure="give the share of the images that are test images, such as 0.2",
            )
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
