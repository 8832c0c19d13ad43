# Distributed under the terms of the GNU General Public License v2 or later

EAPI=8

DESCRIPTION="Python library for sets of nodes and commands on many of them"
HOMEPAGE="https://clustershell.readthedocs.io/"
SRC_URI="https://github.com/cea-hpc/clustershell/archive/v${PV}.tar.gz -> ${P}.tar.gz"
LICENSE="LGPL-2.1+"
SLOT="0"
KEYWORDS="amd64 arm64 x86"

# For headnode, since the Gentoo tree has none: the library alone, for the python3 of now.
RDEPEND="dev-lang/python"
BDEPEND="dev-lang/python"

src_compile() {
	:
}

src_install() {
	local site
	site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))') || die
	insinto "${site#"${EPREFIX}"}"
	doins -r lib/ClusterShell
	dodoc README.md ChangeLog
}
