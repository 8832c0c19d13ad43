# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="Show the colours that this terminal has"
HOMEPAGE="https://blades.example/colours"
S="${WORKDIR}"

LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"
IUSE="+ansi truecolour"
REQUIRED_USE="truecolour? ( ansi )"

src_compile() {
	${CC:-gcc} ${CPPFLAGS} ${CFLAGS} ${LDFLAGS} -DVERSION="\"${PV}\"" \
		$(usex ansi -DUSE_ANSI "") $(usex truecolour -DUSE_TRUECOLOUR "") \
		-o colours "${FILESDIR}"/colours.c || die
}

src_install() {
	dobin colours
}
