"""The programs of a blade as a package, app-admin/headnode-pull, so that they come like all others.

A blade gets them once when it is set up; with the package in its set, a newer headnode's come with
its next pull. The ebuild has no distfile: everything lies with it. Pure.
"""

from __future__ import annotations

import hashlib
import shlex

from config.portage import Rendered, is_program

PULL = "app-admin/headnode-pull"

EBUILD = """\
# Rendered by headnode: changes here are lost.
EAPI=8

DESCRIPTION="How a blade of headnode brings itself to what its ring has"
HOMEPAGE="https://headnode.example/"
S="${{WORKDIR}}"
LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64 arm64 x86"
RDEPEND="
	app-crypt/gnupg
	dev-lang/python
	net-misc/rsync
"

# The paths are those of `headnode blades enrol`: it does not matter which of them comes first.
src_install() {{
	insinto /
	doins -r "${{FILESDIR}}"/.
	fperms 0755 {programs}
{links}}}

pkg_postrm() {{
	[[ -n ${{REPLACED_BY_VERSION}} ]] ||
		rm -rf "${{EROOT}}"/usr/local/lib/headnode/blades/__pycache__
}}
"""


def pull_package(programs: Rendered) -> dict[str, bytes]:
    """The package's files in the overlay, by path."""
    folder = {f"{PULL}/files{path}": text.encode() for path, text in programs.files.items()}
    whole = b"".join(name.encode() + b"\0" + text + b"\0" for name, text in sorted(folder.items()))
    text = EBUILD.format(
        programs=shlex.join(sorted(filter(is_program, programs.files))),
        links="".join(
            f"\tdosym {shlex.quote(target)} {shlex.quote(link)}\n"
            for link, target in sorted(programs.links.items())
        ),
    )
    version = content_version(whole + text.encode())
    return {**folder, f"{PULL}/headnode-pull-{version}.ebuild": text.encode()}


def content_version(content: bytes) -> str:
    """A package's version that is made of its content: the same content is the same package. Pure.

    A number that only grew would have to be kept; blades follow the index down as well as up.
    """
    return f"0_p{int(hashlib.sha256(content).hexdigest()[:8], 16)}"
