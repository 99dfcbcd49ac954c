"""Phrases that had to be read twice stay out of the package and its documents, and arguments are described by nouns."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "notebooks" / "README.md",
    ROOT / "compat" / "README.md",
]
MODULES = sorted(path for room in ("lightning_sparse", "benchmarks") for path in (ROOT / room).rglob("*.py"))

# Each with an example, and the plain words for it.
ODD = {
    r"so many\b": ("for so many steps", "for this many steps"),
    r"anew\b": ("compiled anew", "compiled again, recompiled"),
    r"(go(es)?|going|went|gone) on\b(?! (a|an|the|to)\b)": ("the run goes on", "resumes, continues"),
    r"gone through\b": ("the data are gone through", "iterated"),
    r"(hold|holds|held)\b[^.:;]{0,40}? against\b": ("it is held against the table", "compared with"),
    r"put(s|ting)? back\b": ("modes are put back", "restored"),
    r"part(s|ed)? company\b": ("ranks part company", "diverge"),
    r"taken for\b": ("it is taken for dense", "counted as, mistaken for"),
    r"likewise\b": ("exclude: likewise", "the same for ..., also"),
    r"sees? to it\b": ("see to it that there are some", "make sure, raise if not"),
    r"puts? out\b": ("what a layer puts out", "its output, its activations"),
    r"without a trace\b": ("measures without a trace", "without changing the run"),
    r"is at it\b": ("another process is at it", "runs it"),
    r"that are to be\b": ("weights that are to be masked", "weights to mask"),
    r"shared? out\b": ("the budget is shared out", "distributed"),
    r"what (is|are|was|were) (given|found|meant|said|asked)\b": ("what is given", "the argument"),
}
# The name of an argument, and a description that begins with no noun.
FRAGMENT = re.compile(
    r"^ +\*{0,2}\w+: (Of|As|Likewise|What|Where|How|That|Those|Which|(?:From|By|With|To) which)\b", re.MULTILINE
)


def texts(path: Path) -> Iterator[str]:
    """Yield the docstrings, comments and other strings of a module, or the whole of a document."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield text
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        # Python 3.12 and later have tokens for the parts of an f-string.
        if tokenize.tok_name[token.type] in {"STRING", "COMMENT", "FSTRING_MIDDLE"}:
            yield token.string


def odd_phrases(text: str) -> list[str]:
    """Return the odd phrases of a text, however its lines are broken, and descriptions that begin with no noun."""
    line = " ".join(text.split())
    found = [match[0] for pattern in ODD for match in re.finditer(rf"\b{pattern}", line, re.IGNORECASE)]
    return found + [match[0].strip() for match in FRAGMENT.finditer(text)]


@pytest.mark.parametrize("path", [*DOCUMENTS, *MODULES], ids=lambda path: str(path.relative_to(ROOT)))
def test_phrases_are_understood_at_first_reading(path: Path) -> None:
    assert [phrase for text in texts(path) for phrase in odd_phrases(text)] == []


@pytest.mark.parametrize("pattern", ODD)
def test_a_planted_phrase_is_found_and_its_plain_words_are_not(pattern: str) -> None:
    odd, plain = ODD[pattern]
    assert len(odd_phrases(f"Here {odd}.")) == 1
    assert len(odd_phrases(f"Here {odd}.".replace(" ", "\n    "))) == 1
    assert odd_phrases(plain) == []


@pytest.mark.parametrize(
    ("description", "count"),
    [
        ("seed: Of the choice of batches.", 1),
        ("names: Likewise.", 2),
        ("**options: As `find_weights` takes them.", 1),
        ("seed: Seed for drawing batches.", 0),
        ("download: Whether to download data sets.", 0),
    ],
)
def test_a_planted_argument_without_a_noun_is_found(description: str, count: int) -> None:
    assert len(odd_phrases(f'"""Do it.\n\n    Args:\n        {description}\n    """')) == count


def test_strings_and_comments_of_a_module_are_read_and_its_code_is_not(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('anew = 1  # anew\nraise ValueError(f"anew {x} or so")\n', encoding="utf-8")
    assert [phrase for text in texts(module) for phrase in odd_phrases(text)] == ["anew", "anew"]
