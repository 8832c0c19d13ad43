# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="Count the blades of a node set"
HOMEPAGE="https://blades.example/bladecount"
SRC_URI="mirror://blades/${P}.tar.gz"

LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"

RDEPEND="dev-libs/libblade:="
DEPEND="${RDEPEND}"

src_compile() {
	emake CC="${CC:-gcc}"
}

src_install() {
	emake DESTDIR="${D}" PREFIX="${EPREFIX}/usr" install
}
