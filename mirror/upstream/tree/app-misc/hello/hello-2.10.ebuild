# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="The GNU version of the famous greeting"
HOMEPAGE="https://www.gnu.org/software/hello/"
SRC_URI="mirror://gnu/${PN}/${P}.tar.gz"

LICENSE="GPL-3+ FDL-1.3+"
SLOT="0"
KEYWORDS="amd64"

src_configure() {
	# Without --disable-nls this is the slowest build of the lab, and no blade speaks Finnish.
	econf --disable-nls
}
