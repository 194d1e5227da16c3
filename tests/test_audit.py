"""`make audit` asks for vulnerabilities, fails when there are some, and says where it cannot."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def audit(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run it with stand-ins for Python, PyPI's answer, and pip-audit."""
    if shutil.which("make") is None:
        pytest.skip("there is no make here")

    def run(*, answers: bool, found: bool) -> "subprocess.CompletedProcess[str]":
        for folder in ("bin", "auditor/bin"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        programs = {
            "bin/python": f'case "$2" in *urllib*) exit {int(not answers)};; *) echo /site;; esac',
            "auditor/bin/python": "exit 0",
            "auditor/bin/pip-audit": f'echo "audited $@"; exit {int(found)}',
        }
        for name, text in programs.items():
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        # Newer than what they are made from.
        for mark in (".installed", ".developed"):
            (tmp_path / mark).touch()
            os.utime(tmp_path / mark, (2**32, 2**32))
        return subprocess.run(
            ["make", "audit", f"VENV={tmp_path}", "PYTHON=true"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_without_the_network_it_is_skipped_and_says_so(
    audit: Callable[..., "subprocess.CompletedProcess[str]"],
) -> None:
    done = audit(answers=False, found=True)
    assert done.returncode == 0, done.stderr
    assert "Skipped: pypi.org" in done.stdout
    assert "audited" not in done.stdout


@pytest.mark.parametrize("found", [False, True])
def test_it_audits_what_is_installed_and_fails_when_something_is_known(
    audit: Callable[..., "subprocess.CompletedProcess[str]"], found: bool
) -> None:
    done = audit(answers=True, found=found)
    assert "audited --skip-editable --path /site" in done.stdout
    assert (done.returncode != 0) == found
