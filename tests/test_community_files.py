"""What the hosting platform reads: the workflow that checks every change, forms, and how to cite."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lightning_sparse

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FORMS = sorted(path for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
DOCUMENTS = [*GITHUB.rglob("*.*"), ROOT / "CITATION.cff", ROOT / "CODE_OF_CONDUCT.md", ROOT / "SECURITY.md"]
FIELDS = {"checkboxes", "dropdown", "input", "markdown", "textarea"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def complaints(form: Any) -> list[str]:
    """Return what the platform, or somebody who fills the form in, would miss."""
    found = [f"no {key}" for key in ("name", "description", "labels", "body") if not form.get(key)]
    fields = form.get("body") or []
    found += [f"{field.get('type')} is no field" for field in fields if field.get("type") not in FIELDS]
    asked = [field for field in fields if field.get("type") != "markdown"]
    found += ["a field without a label" for field in asked if not field.get("attributes", {}).get("label")]
    names = [field.get("id") for field in asked]
    if None in names or len(set(names)) < len(names):
        found.append("fields without an id of their own")
    if not any(field.get("validations", {}).get("required") is True for field in asked):
        found.append("nothing is required")
    return found


def test_every_change_runs_the_whole_check() -> None:
    workflow = read(GITHUB / "workflows" / "ci.yml")
    # YAML 1.1 takes the word "on" for a truth value.
    assert {"push", "pull_request"} <= workflow[True].keys()
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]["cancel-in-progress"] is True
    (job,) = workflow["jobs"].values()
    assert 0 < job["timeout-minutes"] <= 90
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert (ROOT / ".ci" / "run").is_file()
    uses = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert uses == ["actions/checkout", "actions/setup-python"]


def test_the_check_runs_with_a_supported_python() -> None:
    (job,) = read(GITHUB / "workflows" / "ci.yml")["jobs"].values()
    (python,) = (step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {}))
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    # A number would lose the last zero of 3.10.
    assert isinstance(python, str)
    assert f"Programming Language :: Python :: {python}" in settings["metadata"]["classifiers"].split("\n")


def test_what_is_cited_is_this_version_of_this_package() -> None:
    citation = read(ROOT / "CITATION.cff")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    package = settings["metadata"]
    assert citation["version"] == lightning_sparse.__version__
    assert (citation["title"], citation["license"]) == (package["name"], package["license"])
    assert citation["abstract"] == package["description"]
    assert [author["name"] for author in citation["authors"]] == [package["author"]]


def test_what_is_cited_are_the_papers_that_the_package_follows() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "lightning_sparse").rglob("*.py"))
    references = read(ROOT / "CITATION.cff")["references"]
    assert len(references) >= 2
    for paper in references:
        assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", paper["url"])
        assert paper["authors"][0]["family-names"] in sources
        assert str(paper["year"]) in sources


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_has_what_it_needs(path: Path) -> None:
    assert complaints(read(path)) == []


def test_there_are_forms_for_errors_and_for_wishes() -> None:
    assert [path.stem for path in FORMS] == ["bug_report", "feature_request"]
    assert isinstance(read(GITHUB / "ISSUE_TEMPLATE" / "config.yml")["blank_issues_enabled"], bool)


FIELD = {"type": "textarea", "id": "a", "attributes": {"label": "A"}, "validations": {"required": True}}
FORM = {"name": "N", "description": "D", "labels": ["bug"], "body": [FIELD]}


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"name": ""}, "no name"),
        ({"body": []}, "no body"),
        ({"body": [FIELD, FIELD]}, "fields without an id of their own"),
        ({"body": [{**FIELD, "type": "text"}]}, "text is no field"),
        ({"body": [{**FIELD, "attributes": {}}]}, "a field without a label"),
        ({"body": [{**FIELD, "validations": {}}]}, "nothing is required"),
    ],
)
def test_a_planted_fault_of_a_form_is_seen(changed: dict[str, Any], complaint: str) -> None:
    assert complaints(FORM) == []
    assert complaint in complaints({**FORM, **changed})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_exist_and_nobody_in_person(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert re.findall(r"[\w.+-]+@[\w-]+\.[a-z]{2,}", text) == []
