# Part of headnode, GPL-2.0-or-later

EAPI=8

# The stand-in: version 0, from files/, for a lab that cannot have the real tarball.
DESCRIPTION="A small lister of directories, in place of tree"
HOMEPAGE="https://blades.example/stand-ins"
S="${WORKDIR}"

LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"

src_compile() {
	${CC:-gcc} ${CPPFLAGS} ${CFLAGS} ${LDFLAGS} -DVERSION="\"${PV}\"" \
		-o ${PN} "${FILESDIR}"/${PN}.c || die
}

src_install() {
	dobin ${PN}
}
