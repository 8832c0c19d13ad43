# Distributed under the terms of the GNU General Public License v2 or later

EAPI=8

MY_P="openmosix-tools-0.3.6-2"
DESCRIPTION="setpe, mosctl, migrate and the other tools of openMosix"
HOMEPAGE="https://openmosix.sourceforge.net/"
SRC_URI="${MY_P}.tar.gz"
S="${WORKDIR}/${MY_P}"
LICENSE="GPL-2"
SLOT="0"
KEYWORDS="x86"

RDEPEND="
	sys-cluster/openmosix-map
	sys-libs/ncurses
"
DEPEND="sys-libs/ncurses"

# They are compiled against the headers of an openMosix kernel: the headnode flavour's source, where
# the builder's root has it.
OPENMOSIX_KERNEL="/usr/src/linux-openmosix"

src_configure() {
	[[ -d ${BROOT}${OPENMOSIX_KERNEL}/hpc ]] ||
		die "${OPENMOSIX_KERNEL} of the builder's root is no openMosix kernel's source"
	./configure \
		--with-kerneldir="${BROOT}${OPENMOSIX_KERNEL}" \
		--prefix="${ED}/usr" \
		--mandir="${ED}/usr/share/man" \
		--bindir="${ED}/bin" \
		--sbindir="${ED}/sbin" \
		--libdir="${ED}/usr/$(get_libdir)" \
		--sysconfdir="${ED}/etc" \
		--with-sysvdir="${T}" \
		--with-configdir="${ED}/etc/openmosix" \
		--with-mapdir="${T}" \
		--with-mosrundir="${ED}/bin" || die
}

src_install() {
	mkdir -p "${ED}"/{bin,sbin,etc/openmosix,usr/share/man/man1} || die
	emake -j1 install
	# They were told to install below the image, and say so in scripts.
	grep -rlZI "${D}" "${ED}" | xargs -0 -r sed -i -e "s:${D}::g" || die
	exeinto /etc/init.d
	newexe "${FILESDIR}/openmosix.initd" openmosix
}
