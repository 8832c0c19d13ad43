# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="The message that greets whoever logs in on a blade"
HOMEPAGE="https://blades.example/motd-blade"
S="${WORKDIR}"

LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"

src_compile() {
	${CC:-gcc} ${CPPFLAGS} ${CFLAGS} ${LDFLAGS} -DVERSION="\"${PV}\"" \
		-DCONFIG="\"${EPREFIX}/etc/motd-blade.conf\"" \
		-o motd-blade "${FILESDIR}"/motd-blade.c || die
	# The version is in the file so that each one brings a new file for CONFIG_PROTECT to keep off.
	sed -e "s/@PV@/${PV}/" "${FILESDIR}"/motd-blade.conf.in > motd-blade.conf || die
}

src_install() {
	dobin motd-blade
	insinto /etc
	doins motd-blade.conf
}
