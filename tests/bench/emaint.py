"""Portage's own indexer, `emaint binhost`, over a PKGDIR, with a configuration of its own.

What stock emaint 3.0.83 does badly is worked round where that is asked for: `USER_PATCHES` is an
index key without a default, so no entry that it wrote itself is ever taken for whole, and every
package is read again each time.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

CHOST = "headnode-unknown-linux-gnu"  # no package's: then every entry says its own
PATCHED = """
import sys
from portage.dbapi.bintree import binarytree
from portage.emaint.main import emaint_main

plain = binarytree.__init__

def patched(self, *args, **kwargs):
    plain(self, *args, **kwargs)
    self._pkgindex_default_pkg_data["USER_PATCHES"] = ""

binarytree.__init__ = patched
emaint_main(sys.argv[1:])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Emaint:
    """emaint over `pkgdir`; `folder` has its configuration."""

    folder: Path
    pkgdir: Path

    def prepare(self, categories: set[str]) -> None:
        """Write a configuration and a tree of ebuilds with nothing in them but `categories`."""
        tree, etc = self.folder / "tree", self.folder / "etc/portage"
        files = {
            tree / "metadata/layout.conf": "masters =\n",
            tree / "profiles/repo_name": "headnode\n",
            tree / "profiles/arch.list": "amd64\n",
            tree / "profiles/categories": "".join(f"{each}\n" for each in sorted(categories)),
            tree / "profiles/plain/eapi": "8\n",
            etc / "make.conf": self._make_conf(),
        }
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (etc / "make.profile").symlink_to(tree / "profiles/plain")
        for name in ("root", "tmp", "share"):
            (self.folder / name).mkdir()
        (self.folder / "share/portage").symlink_to(Path(sys.prefix) / "share/portage")
        self.pkgdir.mkdir(parents=True, exist_ok=True)

    def _make_conf(self) -> str:
        values = {
            "ARCH": "amd64",
            "CHOST": CHOST,
            "ROOT": self.folder / "root",
            "PKGDIR": self.pkgdir,
            "DISTDIR": self.folder / "tmp",
            "PORTAGE_TMPDIR": self.folder / "tmp",
            "PORTAGE_DEPCACHEDIR": self.folder / "tmp",
        }
        return "".join(f'{name}="{value}"\n' for name, value in values.items())

    def command(self, action: str, *, patched: bool = False) -> list[str]:
        """The command line of `emaint binhost --fix` or `--check`."""
        program = [sys.executable, "-c", PATCHED] if patched else [f"{sys.prefix}/bin/emaint"]
        return [*program, "binhost", f"--{action}"]

    def environment(self) -> dict[str, str]:
        """The environment that it runs in."""
        return {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "PORTAGE_CONFIGROOT": str(self.folder),
            "EPREFIX": "",
            "PORTAGE_OVERRIDE_EPREFIX": str(self.folder),
            "PORTAGE_REPOSITORIES": f"[DEFAULT]\nmain-repo = headnode\n[headnode]\n"
            f"location = {self.folder / 'tree'}\n",
            "PORTAGE_USERNAME": "root",
            "PORTAGE_GRPNAME": "root",
            "PORTAGE_TRUST_HELPER": "",
        }

    def run(self, action: str, *, patched: bool = False) -> str:
        """Run it; what it printed. It has to end well."""
        done = subprocess.run(
            self.command(action, patched=patched),
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=1800,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr
