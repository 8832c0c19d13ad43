# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="List directories recursively, indented and in colour"
HOMEPAGE="https://oldmanprogrammer.net/source.php?dir=projects/tree"
SRC_URI="mirror://debian/pool/main/t/tree/${PN}_${PV}.orig.tar.gz -> ${P}.tar.gz"

LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"

src_compile() {
	emake CC="${CC:-gcc}" CFLAGS="${CFLAGS} -std=c11 -D_LARGEFILE64_SOURCE -D_FILE_OFFSET_BITS=64"
}

src_install() {
	# Its makefile means the folder of the program by DESTDIR.
	emake DESTDIR="${ED}/usr/bin" MANDIR="${ED}/usr/share/man" install
	einstalldocs
}
