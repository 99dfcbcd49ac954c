"""Folders that contain one folder of images per class."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_sparse.data.image_files import ImageFiles
from lightning_sparse.validation.errors import InvalidValueError, MissingFileError


def class_folders(folder: Path) -> list[str]:
    """Return the sorted names of a folder's subfolders, one per class; those that begin with a dot are no classes.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has no subfolders.
    """
    if not folder.is_dir():
        raise MissingFileError(
            expected=f"a folder {folder} with one folder of images per class",
            got="none",
            cure="give the folder that contains train and val as data_dir",
        )
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    classes = sorted(entry.name for entry in entries if entry.is_dir())
    if not classes:
        raise InvalidValueError(
            expected=f"one folder of images per class in {folder}",
            got=f"{len(entries)} files and no folder",
            cure="move each image into a folder that is named after its class",
        )
    return classes


def list_images(folder: Path, classes: list[str], transform: Callable[[Any], Tensor]) -> ImageFiles:
    """Return the images in the class folders of a folder.

    Args:
        folder: Folder of class folders; some of the classes may be missing.
        classes: Names of the classes.
        transform: Function from a ``PIL.Image`` to a tensor.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it has folders of other classes, or no images.
    """
    unknown = sorted(set(class_folders(folder)) - set(classes))
    if unknown:
        raise InvalidValueError(
            expected=f"the class folders of train in {folder}",
            got=f"unknown ones: {_shortened(unknown)}",
            cure="name a class alike in both, and remove folders that are no classes",
        )
    files = ImageFiles(folder, classes, transform)
    if not len(files):
        raise InvalidValueError(
            expected=f"images in the class folders of {folder}",
            got="none",
            cure="put them there, as .jpg, .png or another format that torchvision knows",
        )
    return files


def check_every_class_has_images(files: ImageFiles) -> None:
    """Raise a ValueError if a class has no images."""
    labels = {label for _, label in files.samples}
    if empty := [name for label, name in enumerate(files.classes) if label not in labels]:
        raise InvalidValueError(
            expected=f"images of every class in {files.folder}",
            got=f"none of {_shortened(empty)}",
            cure="add some, or remove the empty folder, whose label would never be learned",
        )


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
