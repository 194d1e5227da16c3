"""The documents say what the code is."""

import ast
import re
import runpy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from tomopicker.cli import app
from tomopicker.config import Config
from tomopicker.io.particles import FORMATS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "tomopicker"
MODULES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    for file in SOURCE.rglob("*.py")
    if not file.name.startswith("__")
}
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def code_in(text: str) -> list[str]:
    """What stands between backticks in a text."""
    return re.findall(r"`([^`\n]+)`", text)


def rows_of(text: str) -> list[list[str]]:
    """Cells of the rows of a text's tables, headings left out."""
    lines = [line.strip() for line in text.splitlines()]
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("|") and not after.startswith("|--")
    ]
    return [row for row in rows if set(row[0]) != {"-"}]


@cache
def parsed(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


def named_in(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Names that statements bind, and for a class what is in it."""
    found: dict[str, list[ast.stmt]] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node.body if isinstance(node, ast.ClassDef) else []
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: [] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: [] for target in targets if isinstance(target, ast.Name)}
    return found


def is_code(name: str) -> bool:
    """Whether a dotted name leads, from the package, to a module or to what is in it."""
    # Not by importing, which would cost seconds for PyTorch.
    place, parts = SOURCE, name.split(".")
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    if parts and (place / f"{parts[0]}.py").is_file():
        body = parsed(place / f"{parts.pop(0)}.py")
    else:
        body = parsed(place / "__init__.py")
    for part in parts:
        inside = named_in(body)
        if part not in inside:
            return False
        body = inside[part]
    return True


def is_setting(name: str) -> bool:
    stage, _, setting = name.partition(".")
    field = Config.model_fields.get(stage)
    return field is not None and setting in getattr(field.annotation, "model_fields", {})


@cache
def known_tests() -> set[str]:
    return {
        f"{file.name}::{name}"
        for file in (ROOT / "tests").glob("test_*.py")
        for name in named_in(parsed(file))
        if name.startswith("test_")
    }


def dotted_names(text: str) -> set[str]:
    """Names in a text that begin as those of our modules and settings do, files excepted."""
    first = {name.split(".")[0] for name in MODULES} | set(Config.model_fields)
    return {
        name
        for name in code_in(text)
        if re.fullmatch(r"[a-z_]+(\.\w+)+", name)
        and name.split(".")[0] in first
        and name.rpartition(".")[2] not in ("csv", "html", "json", "md", "png", "py")
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_function_setting_and_test_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    unknown = {name for name in dotted_names(text) if not is_code(name) and not is_setting(name)}
    named = {code for code in code_in(text) if re.match(r"test_\w+\.py::", code)}
    assert unknown | (named - known_tests()) == set()


def test_every_row_of_the_paper_map_leads_to_code_and_a_test() -> None:
    rows = [row for row in rows_of((DOCS / "paper-map.md").read_text()) if len(row) == 4]
    for row in rows:
        assert dotted_names(row[2]), row
        assert any("::test_" in code for code in code_in(row[3])), row
    places = " ".join(row[0] for row in rows)
    for equation in range(1, 9):
        assert re.search(rf"\beq {equation}\b", places), equation


def test_the_settings_are_up_to_date() -> None:
    script = runpy.run_path(str(DOCS / "make_settings.py"))
    text = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert text == script["settings_text"](), "run python docs/make_settings.py"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, by the words that call it."""
    waiting: list[tuple[str, Any]] = [("tomopicker", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        inner = getattr(command, "commands", {})
        waiting += [(f"{name} {word}", one) for word, one in inner.items()]
        if not inner:
            yield name, command


def test_every_command_is_described_with_all_its_options_and_no_other() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## `(tomopicker [^`]+)`\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    described = {
        name: {
            code
            for row in rows_of(section)
            for code in code_in(row[0])
            if re.fullmatch(r"--[a-z-]+|[A-Z]+", code)
        }
        for name, section in sections.items()
    }
    assert described == {
        name: {
            one.opts[0] if one.param_type_name == "option" else (one.metavar or one.name).upper()
            for one in command.params
        }
        for name, command in commands()
    }


def test_every_format_of_picks_is_described() -> None:
    rows = rows_of((DOCS / "formats.md").read_text(encoding="utf-8"))
    assert {row[0] for row in rows} >= {f"`{name}`" for name in FORMATS}


def test_every_module_has_its_line_in_the_layout() -> None:
    text = (DOCS / "design" / "layout.md").read_text(encoding="utf-8")
    assert {code for row in rows_of(text) for code in code_in(row[0])} == MODULES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_to_a_file_leads_to_one(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", text)
    assert [target for target in targets if not (document.parent / target).exists()] == []
