"""A study killed at random points and resumed; the script with all twenty points is in tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "kill_and_resume.py"


@pytest.mark.slow
def test_a_study_killed_twice_ends_with_the_bytes_of_one_that_was_not():
    """Its own process once, one of its workers once."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--case", "study", "--points", "2", "--seed", "1"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed the process" in done.stdout
    assert "killed a worker" in done.stdout
    assert "2 of 2 byte-identical" in done.stdout
