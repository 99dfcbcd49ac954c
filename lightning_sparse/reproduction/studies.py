"""The tables and figures of Dettmers & Zettlemoyer (2019) by name, with the numbers that they published."""

from __future__ import annotations

from lightning_sparse.reproduction.paper_figures import compression, figure2, sensitivity
from lightning_sparse.reproduction.paper_tables import regrowth, table1, table2, table2_as_coded, table3, table5
from lightning_sparse.reproduction.study import Cell, Measure, Published, Study

STUDIES = {
    "table1": table1(),
    "table2": table2(),
    "table2_as_coded": table2_as_coded(),
    "table3": table3(),
    "table5": table5(),
    "figure2": figure2(),
    "compression": compression(),
    "sensitivity": sensitivity(),
    "regrowth": regrowth(),
}

__all__ = ["STUDIES", "Cell", "Measure", "Published", "Study"]
