"""The docs can't drift: their code runs, their recipes plan, their names are the code's."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

import surgeon
from surgeon import Recipe, errors, hookspecs
from surgeon.recipe_file import settings_class
from surgeon.registry import registry
from surgeon.sources import meta_model
from surgeon.studies import Study
from surgeon.studies.checks import BUILT_IN
from surgeon.studies.study_file import Curve, Skip, StudyFile
from surgeon_cli.app import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.M | re.S)


def blocks(path, language):
    return [(title, code) for lang, title, code in FENCE.findall(path.read_text())
            if lang == language]  # fmt: skip


def having(language):
    return [p for p in PAGES if blocks(p, language)]


def ident(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", having("python"), ids=ident)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, object] = {}
    before, path = set(sys.modules), list(sys.path)
    try:
        for title, code in blocks(page, "python"):
            named = re.search(r'title="([^"]+)"', title)
            if named:
                (tmp_path / named[1]).write_text(code)
            else:
                exec(compile(code, f"{page.name}", "exec"), namespace)
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - before:
            if getattr(sys.modules[name], "__file__", "") and str(tmp_path) in str(
                sys.modules[name].__file__
            ):
                del sys.modules[name]


@pytest.mark.parametrize("page", having("toml"), ids=ident)
def test_recipes_are_right(page):
    for _, text in blocks(page, "toml"):
        if "[axes]" in text:
            assert Study.from_toml(text, source=page.name).cells()
            continue
        assert "[model]" in text, "a TOML block is a whole recipe, or a study"
        recipe = Recipe.from_toml(text, source=page.name)
        file = recipe.model.weights or ""
        if not file.endswith(".safetensors"):
            surgeon.plan(meta_model(recipe.model), recipe)


@pytest.mark.parametrize("page", having("sh"), ids=ident)
def test_commands_run(page, tmp_path, capsys):
    """Each `surgeon ...` line of a shell block, in order, with the page's recipes as files."""
    named = re.findall(r"`([\w-]+\.toml)`", page.read_text())
    texts = [text for _, text in blocks(page, "toml")]
    for name, text in zip(dict.fromkeys(named), texts, strict=False):
        (tmp_path / name).write_text(text)
    for _, code in blocks(page, "sh"):
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["surgeon"]:
                assert main(words[1:]) == 0, f"{line}\n{capsys.readouterr().err}"
            elif words[:1] == ["make"]:
                assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M)


def test_generated_pages_are_up_to_date():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "write_reference.py", "--check"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_spec_stands_in_the_docs():
    page = (ROOT / "docs" / "reference" / "plugins.md").read_text()
    for name, spec in vars(hookspecs).items():
        if name.startswith("register_"):
            assert f"`{name}{inspect.signature(spec)}`" in page


def test_every_error_stands_in_the_docs_and_in_the_tree():
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    for name, cls in vars(errors).items():
        if inspect.isclass(cls) and issubclass(cls, errors.SurgeonError):
            assert name in page
            assert name in errors.__doc__


def test_every_public_name_has_an_example():
    code = "".join(c for _, c in blocks(ROOT / "docs" / "reference" / "python.md", "python"))
    for name in surgeon.__all__:
        assert re.search(rf"\b{name}\b", code), name


def test_every_operation_and_its_keys_stand_in_the_docs():
    page = (ROOT / "docs" / "reference" / "operations.md").read_text()
    for entry in registry().all("operation"):
        row = next(line for line in page.splitlines() if line.startswith(f"| `{entry.name}`"))
        for field in dataclasses.fields(entry.load()):
            assert field.name in ("site", "expect") or f"`{field.name}`" in row


def test_every_probe_setting_stands_in_the_docs():
    for entry in registry().all("probe"):
        page = (ROOT / "docs" / "reference" / f"{entry.name}.md").read_text()
        settings = settings_class(entry.name)
        assert issubclass(settings, BaseModel)
        for name in settings.model_fields:
            assert f"`{name}`" in page, f"{entry.name}.{name}"


def test_every_key_of_a_study_and_of_its_checks_stands_in_the_docs():
    page = (ROOT / "docs" / "reference" / "studies.md").read_text()
    for cls in (StudyFile, Skip, Curve):
        for name in cls.model_fields:
            assert re.search(rf"^\[*{name}\b", page, re.M), f"{cls.__name__}.{name}"
    for name, (_, settings) in BUILT_IN.items():
        assert f"| `{name}` |" in page
        for key in settings.model_fields:
            assert f"`{key}`" in page, f"{name}.{key}"


def test_the_site_builds_strictly(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").exists()


def test_nothing_in_the_project_is_private_to_a_machine():
    """No machine paths and no registry's address in any text file."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
    suspicious = re.compile(r"/root/|/home/\w|/work/|://(pypi|registry|deb)\.|file:///")
    for name in listed.split():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yml", ".json", "") and path.is_file():
            if path == Path(__file__):
                continue
            found = suspicious.search(path.read_text(errors="ignore"))
            assert not found, f"{name}: {found[0]}"


def test_the_changelog_names_this_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
