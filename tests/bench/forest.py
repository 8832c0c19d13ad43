"""A made-up tree of ebuilds of any size, in about the proportions of Gentoo's own.

Taken as given, for each package: 1.6 ebuilds of 0.7 to 3 KB and as many entries of the metadata
cache, a Manifest with two digests a line, metadata.xml, for every second one a patch in files/.
For each hundred packages: 20 GLSAs, 8 licences of 6 KB, 10 files of profiles, 1 news item. Words
repeat as they do in ebuilds, digests do not, so that it compresses as such a tree does.

The same number gives the same tree. `age_a_day` changes it as a day does.
"""

# ruff: noqa: S311, S324 (nothing here is a secret)
from __future__ import annotations

import hashlib
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

WORDS = [hashlib.md5(str(n).encode()).hexdigest()[: 3 + n % 9] for n in range(900)]
FILES_A_PACKAGE = 6.1
CHK_FORMAT = "%a, %d %b %Y %H:%M:%S +0000"
EPOCH = 1_700_000_000
EBUILD = """# Copyright 1999-2026 Gentoo Authors
# Distributed under the terms of the GNU General Public License v2

EAPI=8

inherit {eclasses}

DESCRIPTION="{text}"
HOMEPAGE="https://example.org/{name}"
SRC_URI="https://example.org/{name}/${{P}}.tar.xz"

LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64 ~arm arm64 ~hppa ppc ppc64 ~riscv ~s390 sparc x86"
IUSE="{use}"

RDEPEND="
{depends}
"
DEPEND="${{RDEPEND}}"

src_configure() {{
	local myconf=(
{options}
	)
	econf "${{myconf[@]}}"
}}
"""
CACHE = """DEFINED_PHASES=configure install
DEPEND={depends}
DESCRIPTION={text}
EAPI=8
HOMEPAGE=https://example.org/{name}
INHERIT={eclasses}
IUSE={use}
KEYWORDS=amd64 ~arm arm64 ~hppa ppc ppc64 ~riscv ~s390 sparc x86
LICENSE=GPL-2+
RDEPEND={depends}
SLOT=0
SRC_URI=https://example.org/{name}/{name}-{version}.tar.xz
_eclasses_={inherited}
_md5_={md5}
"""


@dataclass
class Forest:
    """A tree in `root` of about `files` files; `random` decides everything in it."""

    root: Path
    files: int
    random: random.Random = field(default_factory=lambda: random.Random(1))
    packages: list[tuple[str, str, int]] = field(default_factory=list)
    day: int = 0

    def plant(self) -> None:
        """Write the tree."""
        for number in range(int(self.files / FILES_A_PACKAGE)):
            category = f"{WORDS[number // 120 % 900]}-{WORDS[number // 120 * 7 % 900]}"
            name = f"{WORDS[number % 900]}-{number}"
            versions = 1 + (self.random.random() < 0.6)
            self.packages.append((category, name, versions))
            self._package(category, name, range(1, versions + 1))
        self._commons()
        self.stamp()

    def age_a_day(self, share: float = 0.01) -> None:
        """Move `share` of the packages on: a new ebuild in place of the oldest, and what follows.

        A mask and a GLSA change as well, as on most days of Gentoo's.
        """
        self.day += 1
        for _ in range(max(1, int(len(self.packages) * share))):
            at = self.random.randrange(len(self.packages))
            category, name, newest = self.packages[at]
            oldest = newest if self._path(category, name, newest - 1) is None else newest - 1
            self._drop(category, name, oldest)
            self.packages[at] = (category, name, newest + 1)
            self._package(category, name, {*range(oldest + 1, newest + 1), newest + 1})
        self.change_profiles()
        self.stamp()

    def change_profiles(self) -> None:
        """One more line in package.mask, and one more GLSA."""
        mask = (self.root / "profiles/package.mask").read_text()
        self._write("profiles/package.mask", f"{mask}# {self._text(9)}\n{self._atom()}\n")
        self._glsa(100_000 + self.day)

    def stamp(self) -> None:
        """Write the timestamps anew: what upstream does every half hour, changed or not."""
        self.day += 1
        when = EPOCH + 86_400 * self.day
        text = time.strftime(CHK_FORMAT, time.gmtime(when))
        self._write("metadata/timestamp.chk", f"{text}\n")
        self._write("metadata/timestamp.x", f"{when} {text}\n")

    def _package(self, category: str, name: str, versions: object) -> None:
        folder, lines = f"{category}/{name}", []
        for version in sorted(versions):  # type: ignore[call-overload]
            lines.append(self._manifest("DIST", f"{name}-{version}.tar.xz"))
            if self._path(category, name, version) is None:
                self._version(category, name, version)
        if not (self.root / folder / "metadata.xml").exists():
            about = f"<pkgmetadata>{self._text(60)}</pkgmetadata>\n"
            self._write(f"{folder}/metadata.xml", about)
            if self.random.random() < 0.5:
                patch = self._block(self.random.randint(9, 60))
                self._write(f"{folder}/files/{name}-1.patch", patch)
        self._write(f"{folder}/Manifest", "".join(lines))

    def _version(self, category: str, name: str, version: int) -> None:
        eclasses = self.random.sample(WORDS[:250], 3)
        said = {
            "name": name,
            "version": version,
            "eclasses": " ".join(eclasses),
            "text": self._text(9),
            "use": self._text(self.random.randint(0, 12)),
            "depends": "\n".join(self._atom() for _ in range(self.random.randint(1, 14))),
            "options": self._block(self.random.randint(2, 40), "\t\t--with-"),
        }
        ebuild = EBUILD.format(**said)
        self._write(f"{category}/{name}/{name}-{version}.ebuild", ebuild)
        md5 = hashlib.md5(ebuild.encode()).hexdigest()
        inherited = "\t".join(f"{each}\t{_hex(each, 32)}" for each in eclasses)
        said["depends"] = str(said["depends"]).replace("\n", " ")
        entry = CACHE.format(**said, md5=md5, inherited=inherited)
        self._write(f"metadata/md5-cache/{category}/{name}-{version}", entry)

    def _drop(self, category: str, name: str, version: int) -> None:
        (self.root / category / name / f"{name}-{version}.ebuild").unlink()
        (self.root / "metadata/md5-cache" / category / f"{name}-{version}").unlink()

    def _path(self, category: str, name: str, version: int) -> Path | None:
        path = self.root / category / name / f"{name}-{version}.ebuild"
        return path if path.exists() else None

    def _commons(self) -> None:
        hundreds = max(1, len(self.packages) // 100)
        self._write("profiles/repo_name", "gentoo\n")
        self._write("metadata/layout.conf", "masters =\nthin-manifests = true\n")
        self._write("profiles/package.mask", "".join(f"{self._atom()}\n" for _ in range(900)))
        self._write("profiles/use.local.desc", self._block(40 * hundreds))
        for word in WORDS[:250]:
            self._write(f"eclass/{word}.eclass", self._block(self.random.randint(20, 300)))
        for number in range(20 * hundreds):
            self._glsa(number)
        for number in range(8 * hundreds):
            self._write(f"licenses/L-{number}", self._block(150))
        for number in range(10 * hundreds):
            lines = "".join(f"{self._atom()}\n" for _ in range(self.random.randint(1, 40)))
            self._write(f"profiles/targets/{number}/package.use.mask", lines)
        for number in range(hundreds):
            self._write(f"metadata/news/{number}/{number}.en.txt", self._block(40))

    def _glsa(self, number: int) -> None:
        self._write(f"metadata/glsa/glsa-{number:06}.xml", f"<glsa>{self._block(50)}</glsa>\n")

    def _manifest(self, kind: str, name: str) -> str:
        size = len(name) * 7919
        return f"{kind} {name} {size} BLAKE2B {_hex(name, 128)} SHA512 {_hex(name[::-1], 128)}\n"

    def _atom(self) -> str:
        first, second = self.random.choices(WORDS, k=2)
        version = f"{self.random.randint(1, 9)}.{self.random.randint(0, 9)}"
        return f"\t>={first}-{second}/{first}-{version}"

    def _text(self, count: int) -> str:
        return " ".join(self.random.choices(WORDS, k=count))

    def _block(self, lines: int, before: str = "") -> str:
        return "".join(f"{before}{self._text(self.random.randint(3, 8))}\n" for _ in range(lines))

    def _write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        when = EPOCH + 86_400 * self.day + self.random.randint(0, 3600)
        os.utime(path, (when, when))


def _hex(text: str, digits: int) -> str:
    return hashlib.sha512(text.encode()).hexdigest()[:digits]
