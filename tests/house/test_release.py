"""What a release needs: workflows, forms, citation, recipe and versions that agree with ``pyproject.toml``."""

import re
import runpy
from pathlib import Path

import pytest
from packaging.requirements import Requirement

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
FORMS = [path for path in sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
VERSION = re.search(r'^version = "([^"]+)"', PROJECT, re.MULTILINE)[1]


def read(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def requirements(block):
    """The requirements between ``block = [`` and the line with ``]`` alone."""
    listed = re.search(rf"^{block} = \[\n(.*?)^\]", PROJECT, re.MULTILINE | re.DOTALL)[1]
    return {found.name: found for found in map(Requirement, re.findall(r'"([^"]+)"', listed))}


def name(path):
    return path.stem


@pytest.mark.parametrize("path", WORKFLOWS, ids=name)
def test_workflow(path):
    content = read(path)
    assert content.keys() <= {"name", True, "permissions", "jobs", "concurrency"}  # YAML takes the key "on" for true
    assert content["permissions"] == {"contents": "read"}  # what needs more says so in its job
    jobs = content["jobs"]
    for job in jobs.values():
        assert {"runs-on", "steps"} <= job.keys()
        assert set([job["needs"]] if "needs" in job else []) <= jobs.keys()
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))
            for script in re.findall(r"\.ci/[\w.]+", step.get("run", "")):
                assert (ROOT / script).is_file(), script


def test_workflows_cover_what_is_declared():
    matrix = read(ROOT / ".github/workflows/tests.yml")["jobs"]["tests"]["strategy"]["matrix"]
    assert {each.split("-")[0] for each in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert set(matrix["python"]) == set(re.findall(r"Python :: (3\.\d+)", PROJECT))
    assert f'requires-python = ">={matrix["python"][0]}"' in PROJECT


def test_publishing_needs_no_secret():
    path = ROOT / ".github/workflows/release.yml"
    publish = read(path)["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert "secrets." not in path.read_text(encoding="utf-8")
    assert read(path)[True] == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize("path", FORMS, ids=name)
def test_issue_form(path):
    content = read(path)
    assert {"name", "description", "body"} <= content.keys()
    fields = [field["id"] for field in content["body"]]
    assert len(set(fields)) == len(fields)
    assert all(field["attributes"]["label"] for field in content["body"])


def test_citation():
    content = read(ROOT / "CITATION.cff")
    assert {"cff-version", "title", "message", "authors"} <= content.keys()
    assert content["license"] == "Apache-2.0"
    assert not {"version", "date-released"} & content.keys()  # pyproject.toml and CHANGELOG.md say them
    cited = {identifier["value"] for each in content["references"] for identifier in each.get("identifiers", ())}
    assert {"arXiv:2412.19553", "arXiv:2604.19159"} <= cited
    for reference in content["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_conda_asks_for_the_versions_of_the_wheel():
    recipe = read(ROOT / "docs/upstream/conda/recipe.yaml")
    renamed = {"pytorch": "torch", "matplotlib-base": "matplotlib"}
    conda = dict(line.split(" ", 1) for line in recipe["requirements"]["run"] if not line.startswith("python "))
    ours = {package: str(found.specifier) for package, found in requirements("dependencies").items()}
    assert {renamed.get(package, package): bound for package, bound in conda.items()} == ours


def test_every_dependency_has_a_lower_bound_and_none_an_upper_one():
    listed = re.findall(r'"([A-Za-z][\w.-]*(?:\[[\w,]+\])?[<>=!~][^"]*)"', PROJECT.partition("[tool.setuptools]")[0])
    bounds = [Requirement(text) for text in listed if " " not in text]
    assert len(bounds) > 30
    for requirement in bounds:
        assert [each.operator for each in requirement.specifier] == [">="], requirement


def test_a_release_is_refused_until_all_agrees():
    problems = runpy.run_path(str(ROOT / ".ci/release.py"))["problems"]
    project, changes = 'version = "1.2.3"\n', "## 1.2.3 (2026-11-30)\n"
    assert problems("v1.2.3", project, changes) == []
    assert "tag is v1.2.4" in problems("v1.2.4", project, changes.replace("1.2.3", "1.2.4"))[0]
    assert "OWNER" in problems("v1.2.3", f'{project}Issues = "https://github.com/OWNER/msds-plugin"', changes)[0]
    assert "CHANGELOG" in problems("v1.2.3", project, changes.replace("2026-11-30", "unreleased"))[0]


def test_the_version_is_in_one_place():
    base = VERSION.partition(".dev")[0]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (\S+)", changes, re.MULTILINE)[1] == base  # the topmost section is what is being worked on
    for path in (ROOT / "msds_plugin").glob("*.py*"):
        assert f'"{base}' not in path.read_text(encoding="utf-8"), path


def test_hooks_before_a_commit():
    hooks = [hook for repository in read(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repository["hooks"]]
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "pytest"}
    assert {hook["language"] for hook in hooks} == {"system"}
