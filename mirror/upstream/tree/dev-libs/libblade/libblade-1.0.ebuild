# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="What a blade knows about itself, and how node sets are counted"
HOMEPAGE="https://blades.example/libblade"
SRC_URI="mirror://blades/${P}.tar.gz"

LICENSE="GPL-2+"
# The sub-slot is the soname's number: dependants say := and are rebuilt when it moves.
SLOT="0/$(ver_cut 1)"
KEYWORDS="amd64"

src_compile() {
	emake CC="${CC:-gcc}"
}

src_install() {
	emake DESTDIR="${D}" PREFIX="${EPREFIX}/usr" LIBDIR="${EPREFIX}/usr/$(get_libdir)" install
	einstalldocs
}
