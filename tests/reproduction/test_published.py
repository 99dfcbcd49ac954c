"""Every published number is what the paper or the authors' files have."""

from __future__ import annotations

import pytest
from paper_tables import IN_FILES, PRINTED, Place, read

from lightning_sparse.reproduction.studies import STUDIES
from lightning_sparse.reproduction.study import Published, Study


def published(study: Study) -> dict[Place, Published]:
    found: dict[Place, Published] = {}
    for label, row in study.rows:
        for column, cell in row.items():
            assert (label, column, cell.weights) not in found
            if cell.published is not None:
                found[label, column, cell.weights] = cell.published
    return found


def test_every_study_has_its_numbers_here() -> None:
    assert set(STUDIES) == {*PRINTED, *IN_FILES}


@pytest.mark.parametrize("name", PRINTED)
def test_numbers_of_the_paper_are_as_printed(name: str) -> None:
    expected = {place: mean if error is None else f"{mean} +- {error}" for place, (mean, error) in read(*PRINTED[name])}
    assert {place: number.shown for place, number in published(STUDIES[name]).items()} == expected


@pytest.mark.parametrize("name", IN_FILES)
def test_numbers_of_the_result_files_are_theirs_in_percent(name: str) -> None:
    expected = {
        place: (float(mean) * percent, None if error is None else float(error) * percent)
        for table, columns, percent in IN_FILES[name]
        for place, (mean, error) in read(table, columns)
    }
    found = published(STUDIES[name])
    assert set(found) == set(expected)
    for place, (mean, error) in expected.items():
        assert found[place].value == pytest.approx(mean, rel=1e-9), place
        assert found[place].error == (None if error is None else pytest.approx(error, rel=1e-9)), place


def test_what_others_published_with_one_decimal_has_one_in_each_study() -> None:
    for name in ("table1", "compression"):
        brain_damage = dict(STUDIES[name].rows)["Optimal brain damage (LeCun et al., 1989)"]
        assert [cell.published.shown for cell in brain_damage.values() if cell.published] == ["2.0", "2.7"]


@pytest.mark.parametrize(
    ("text", "value", "error", "shown"),
    [
        ("2.0", 2.0, None, "2.0"),
        ("1.53 +- 0.020", 1.53, 0.02, "1.53 +- 0.020"),
        ("-0.15 +- 0.054", -0.15, 0.054, "-0.15 +- 0.054"),
        ("+0.07 +- 0.022", 0.07, 0.022, "+0.07 +- 0.022"),
        ("94.6775 +- 0.0595", 94.6775, 0.0595, "94.6775 +- 0.0595"),
        ("97.74096 +- 0.07068877551", 97.74096, 0.07068877551, "97.7410 +- 0.0707"),
    ],
)
def test_a_published_number_is_shown_with_its_decimals_but_not_with_a_floats(
    text: str, value: float, error: float | None, shown: str
) -> None:
    number = Published(text)
    assert (number.value, number.error, number.shown) == (value, error, shown)
