"""The manual: its generated pages are current, and it is built without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

from headnode import remedies

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def test_the_page_of_errors_is_current() -> None:
    assert (DOCS / "errors.md").read_text() == remedies.render(ROOT), "run `make docs`"


@pytest.mark.parametrize("kind", ["html", "man"])
def test_the_manual_is_built_without_a_warning(tmp_path: Path, kind: str) -> None:
    argv = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", kind, DOCS, tmp_path / "built"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_error_is_found_with_its_remedy() -> None:
    source = """
def f(path):
    raise PublishError(f"{path} is damaged: {why}.", remedy="Put it " + "back.")
    raise ValueError("a mistake of ours")
"""
    assert list(remedies.errors_in(source, "binhost")) == [
        remedies.Said("binhost", "… is damaged: ….", "Put it back.")
    ]
