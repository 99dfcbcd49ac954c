"""The help of `reproduce` agrees with the studies."""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path

import pytest

from lightning_sparse.cli import main
from lightning_sparse.reproduction import reproduce
from lightning_sparse.reproduction.studies import STUDIES


def description_of(argument: str) -> str:
    """Return the documented description of an argument, in one line."""
    documentation = inspect.getdoc(reproduce) or ""
    (text,) = re.findall(rf"^    {argument}: (.*?)(?=^    \w+: |\Z)", documentation, re.DOTALL | re.MULTILINE)
    return " ".join(text.split())


def test_every_study_can_be_named() -> None:
    choices = typing.get_args(typing.get_type_hints(reproduce)["study"])
    assert list(choices) == list(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_help_and_readme_name_every_study(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert re.search(rf"\b{name}\b", capsys.readouterr().out)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert f"`{name}`" in readme


def test_the_numbers_of_seeds_that_the_help_names_are_those_of_the_studies() -> None:
    _, *pairs = re.split(r"\b(\d+) for ", description_of("seeds"))
    said = {
        word: int(count)
        for count, text in zip(pairs[::2], pairs[1::2], strict=True)
        for word in re.findall(r"\w+", text)
        if word in STUDIES
    }
    assert said == {name: study.seeds for name, study in STUDIES.items()}
