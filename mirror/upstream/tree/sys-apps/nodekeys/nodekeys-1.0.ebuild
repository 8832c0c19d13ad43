# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="Give each blade an identity of its own, once"
HOMEPAGE="https://blades.example/nodekeys"
S="${WORKDIR}"

LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"

src_compile() {
	${CC:-gcc} ${CPPFLAGS} ${CFLAGS} ${LDFLAGS} -DVERSION="\"${PV}\"" \
		-DSTATE="\"${EPREFIX}/var/lib/nodekeys\"" \
		-o nodekeys "${FILESDIR}"/nodekeys.c || die
}

src_install() {
	dobin nodekeys
	keepdir /var/lib/nodekeys
}

# The identity cannot be in the package: all blades install the same one.
pkg_postinst() {
	local state="${EROOT}/var/lib/nodekeys"
	if [[ ! -s ${state}/id ]]; then
		od -An -N16 -tx1 /dev/urandom | tr -d ' ' > "${state}/id" || die
	fi
	echo "${PVR}" > "${state}/configured-by" || die
	elog "This node is $(< "${state}/id")."
}

pkg_postrm() {
	if [[ -z ${REPLACED_BY_VERSION} ]]; then
		rm -f "${EROOT}"/var/lib/nodekeys/{id,configured-by}
	fi
}
