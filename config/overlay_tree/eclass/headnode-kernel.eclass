# Distributed under the terms of the GNU General Public License v2 or later

# @ECLASS: headnode-kernel.eclass
# @SUPPORTED_EAPIS: 8
# @BLURB: builds the kernel of a headnode flavour into one package
# @DESCRIPTION:
# Everything of a kernel lies in /lib/modules/<release>, where Portage leaves it when the package
# goes or is replaced (UNINSTALL_IGNORE): a blade's fallback is not taken from under it. What goes
# into /boot, and when something may be removed, is the pull's business (blades/kernel.py).
#
# With KERNEL_PART=tree it makes the other package of a flavour: what modules of one's own are built
# against, in /usr/src. It is for the builder; no blade gets it.
#
# The ebuild sets, all rendered by headnode from the flavour:
#   KERNEL_PART      image, or tree
#   KERNEL_RELEASE   what uname -r will say
#   KERNEL_LOCAL     what of it make adds to the version
#   KERNEL_ARCHIVE   the source's distfile, or KERNEL_SOURCES: the folder in /usr/src
#   KERNEL_PATCHES   patches in order; those in files/ and distfiles
#   KERNEL_CONFIG    the resolved .config, in files/
#   KERNEL_ABOUT     what the blade is told, in files/
#   KERNEL_CC        the compiler
#   KERNEL_MAKE      further arguments of make (an array)
#   KERNEL_MODULES   modules that are installed; "all", or empty for none
#   KERNEL_DATE      when this revision was first made, for uname -v

case ${EAPI} in
	8) ;;
	*) die "${ECLASS}: EAPI ${EAPI:-0} not supported" ;;
esac

DESCRIPTION="Linux ${KERNEL_RELEASE}"
HOMEPAGE="https://www.kernel.org/"
S="${WORKDIR}/linux"
LICENSE="GPL-2"
SLOT="0"
KEYWORDS="amd64 x86"
# Modules are signed or bare as make left them, and an image is no program of this system.
RESTRICT="binchecks strip"
QA_PREBUILT="*"
BDEPEND="
	app-alternatives/bc
	app-alternatives/cpio
	dev-lang/perl
	dev-libs/openssl
	sys-apps/kmod
	sys-devel/bison
	sys-devel/flex
	virtual/libelf
"

EXPORT_FUNCTIONS src_unpack src_prepare src_configure src_compile src_install

# @FUNCTION: headnode-kernel_is_old
# @DESCRIPTION: Whether the tree is Linux 2.4: another configuration language, and make dep.
headnode-kernel_is_old() {
	[[ ! -e scripts/kconfig ]]
}

# @FUNCTION: headnode-kernel_cc
# @DESCRIPTION: Prints the compiler for make. distcc 3.4 calls gcc by its CHOST's name, which Kconfig
# takes for another compiler (CC_VERSION_TEXT, which is in the image): only what makes an object
# goes through it.
headnode-kernel_cc() {
	local first real
	first=$(type -P "${KERNEL_CC}")
	real=$(type -aP "${KERNEL_CC}" | grep -v /distcc/ | head -n 1)
	if [[ ${first} == "${real}" || -z ${real} ]]; then
		echo "${KERNEL_CC}"
		return
	fi
	printf '#!/bin/sh\ncase " $* " in *" -c "*) exec %s "$@" ;; esac\nexec %s "$@"\n' \
		"${first}" "${real}" > "${T}/${KERNEL_CC}" || die
	chmod +x "${T}/${KERNEL_CC}" || die
	echo "${T}/${KERNEL_CC}"
}

# @FUNCTION: headnode-kernel_make
# @USAGE: <targets and arguments>
# @DESCRIPTION: make in the tree. Portage's ARCH and flags are those of programs, not of kernels.
headnode-kernel_make() {
	local name=LOCALVERSION cc
	headnode-kernel_is_old && name=EXTRAVERSION
	cc=$(headnode-kernel_cc) || die
	(
		unset ARCH CFLAGS CPPFLAGS CXXFLAGS LDFLAGS
		export KBUILD_BUILD_USER=headnode KBUILD_BUILD_HOST=headnode
		export KBUILD_BUILD_TIMESTAMP="${KERNEL_DATE}"
		nonfatal emake CC="${cc}" "${name}=${KERNEL_LOCAL}" "${KERNEL_MAKE[@]}" "$@"
	) || die "make $* failed"
}

headnode-kernel_src_unpack() {
	if [[ -n ${KERNEL_SOURCES} ]]; then
		cp -a "${BROOT}/usr/src/${KERNEL_SOURCES}" linux || die "/usr/src/${KERNEL_SOURCES}"
	else
		mkdir linux || die
		tar --extract --no-same-owner --strip-components=1 --directory linux \
			--file "${DISTDIR}/${KERNEL_ARCHIVE}" || die "tar cannot read ${KERNEL_ARCHIVE}"
	fi
}

# @FUNCTION: headnode-kernel_plain
# @USAGE: <file>
# @DESCRIPTION: Prints a patch, whatever it is packed with.
headnode-kernel_plain() {
	case $1 in
		*.gz) gzip -dc "$1" ;;
		*.bz2) bzip2 -dc "$1" ;;
		*.xz) xz -dc "$1" ;;
		*) cat "$1" ;;
	esac
}

headnode-kernel_src_prepare() {
	local file path
	for file in "${KERNEL_PATCHES[@]}"; do
		path=${FILESDIR}/${file}
		[[ -e ${path} ]] || path=${DISTDIR}/${file}
		headnode-kernel_plain "${path}" > "${T}/${file}.patch" || die "${file} cannot be read"
		eapply "${T}/${file}.patch"
	done
	eapply_user
}

# @FUNCTION: headnode-kernel_symbols
# @USAGE: <.config>
# @DESCRIPTION: What a .config says, sorted, without comments.
headnode-kernel_symbols() {
	grep -E '^(CONFIG_|# CONFIG_.* is not set$)' "$1" | sort
}

headnode-kernel_src_configure() {
	cp "${FILESDIR}/${KERNEL_CONFIG}" .config || die
	if headnode-kernel_is_old; then
		yes "" | headnode-kernel_make -j1 oldconfig
		return
	fi
	headnode-kernel_make -j1 olddefconfig
	diff -u <(headnode-kernel_symbols "${FILESDIR}/${KERNEL_CONFIG}") \
		<(headnode-kernel_symbols .config) > "${T}/changed"
	if [[ -s ${T}/changed ]]; then
		cat "${T}/changed"
		die "The configuration comes out otherwise than when it was resolved: headnode kernel build"
	fi
}

headnode-kernel_src_compile() {
	if headnode-kernel_is_old; then
		headnode-kernel_make -j1 dep
		[[ ${KERNEL_PART} != tree ]] || return 0
		headnode-kernel_make bzImage
		headnode-kernel_has_modules && headnode-kernel_make modules
	elif [[ ${KERNEL_PART} == tree ]]; then
		headnode-kernel_make modules_prepare
	else
		headnode-kernel_make all
	fi
}

headnode-kernel_has_modules() {
	grep -q '^CONFIG_MODULES=y' .config
}

# @FUNCTION: headnode-kernel_image_release
# @USAGE: <bzImage>
# @DESCRIPTION: Prints the release that an image carries. Source: Documentation/x86/boot.rst,
# "kernel_version": a pointer at 0x20e, relative to 0x200.
headnode-kernel_image_release() {
	local at
	at=$(od -An -t u2 -j 526 -N 2 "$1") || return
	tail -c "+$(( at + 513 ))" "$1" | head -c 128 | tr '\0' '\n' | head -n 1 | cut -d ' ' -f 1
}

# @FUNCTION: headnode-kernel_check_image
# @USAGE: <bzImage> <release>
headnode-kernel_check_image() {
	local found
	found=$(headnode-kernel_image_release "$1")
	[[ ${found} == "$2" ]] || die "The image is of release '${found}', and should be of '$2'"
}

# @FUNCTION: headnode-kernel_check_modules
# @USAGE: <folder> <release>
# @DESCRIPTION: Dies where a module below the folder was made for another kernel. Modules of Linux
# 2.4 are called .o, which no modinfo of today reads, and have a kernel_version and no vermagic.
headnode-kernel_check_modules() {
	local module found wrong=()
	while IFS= read -r -d '' module; do
		if [[ ${module} == *.o ]]; then
			found=$(tr '\0' '\n' < "${module}" | sed -n 's/^kernel_version=//p;T;q')
		else
			found=$(modinfo -F vermagic "${module}") || die "modinfo cannot read ${module}"
		fi
		[[ ${found%% *} == "$2" ]] || wrong+=( "${module##*/} (${found%% *})" )
	done < <(find "$1" -type f '(' -name '*.ko*' -o -name '*.o' ')' -print0)
	[[ ${#wrong[@]} -eq 0 ]] || die "Modules of another kernel than $2: ${wrong[*]}"
}

# @FUNCTION: headnode-kernel_keep_modules
# @USAGE: <folder> <modules>
# @DESCRIPTION: Removes the modules that are neither named nor needed by those. Reads modules.dep.
headnode-kernel_keep_modules() {
	local folder=$1 name line file keep=" "
	shift
	for name; do
		line=$(grep -E "(^|/)${name//[-_]/[-_]}\.ko[^/:]*:" "${folder}/modules.dep") ||
			die "There is no module ${name}: is it built in, or not configured as m?"
		keep+="${line/:/ } "
	done
	while IFS= read -r -d '' file; do
		[[ ${keep} == *" ${file} "* ]] || rm "${folder}/${file}" || die
	done < <(cd "${folder}" && find . -type f -name '*.ko*' -printf '%P\0')
	find "${folder}" -mindepth 1 -type d -empty -delete
}

# @FUNCTION: headnode-kernel_install_tree
# @DESCRIPTION: Installs what make reads when it builds a module outside of the kernel's tree, with
# the symbols of the kernel itself. Source: Documentation/kbuild/modules.rst.
headnode-kernel_install_tree() {
	local tree="${ED}/usr/src/linux-${KERNEL_RELEASE}"
	local symbols="${BROOT}/lib/modules/${KERNEL_RELEASE}/Module.symvers" # Linux 2.4 has none
	[[ ! -e ${symbols} ]] || cp "${symbols}" . || die
	mkdir -p "${tree}" || die
	{
		find . -type f '(' -name 'Makefile*' -o -name 'Kbuild*' -o -name 'Kconfig*' ')' -printf '%P\0'
		find . '!' -type d -regextype egrep -regex \
			'\./(include|scripts|arch/[^/]+/include|tools/objtool/objtool)(/.*)?' -printf '%P\0'
		find . -maxdepth 1 -type f '(' -name .config -o -name Module.symvers ')' -printf '%P\0'
	} | sort -zu | tar --create --null --files-from=- | tar --extract --directory "${tree}" ||
		die "tar cannot copy the tree"
	printf '%s\n' "CC=${KERNEL_CC}" "${KERNEL_MAKE[@]}" > "${tree}/headnode.make" || die
	ln -s "linux-${KERNEL_RELEASE}" "${ED}/usr/src/linux" || die
}

headnode-kernel_src_install() {
	if [[ ${KERNEL_PART} == tree ]]; then
		headnode-kernel_install_tree
		return
	fi
	local folder="${ED}/lib/modules/${KERNEL_RELEASE}" image=arch/x86/boot/bzImage
	[[ -e ${image} ]] || image=arch/i386/boot/bzImage
	[[ -e ${image} ]] || die "make left no image at arch/x86/boot/bzImage"
	headnode-kernel_check_image "${image}" "${KERNEL_RELEASE}"
	mkdir -p "${folder}" || die
	if headnode-kernel_has_modules && [[ -n ${KERNEL_MODULES} ]]; then
		headnode-kernel_make -j1 modules_install INSTALL_MOD_PATH="${ED}"
		rm -f "${folder}"/{build,source} || die
		if [[ ${KERNEL_MODULES} != all ]]; then
			headnode-kernel_is_old && die "Linux 2.4 has its modules all or none"
			headnode-kernel_keep_modules "${folder}" ${KERNEL_MODULES}
		fi
		headnode-kernel_check_modules "${ED}/lib/modules" "${KERNEL_RELEASE}"
		# A depmod of today does not see those of 2.4: the blade's own runs when it boots.
		headnode-kernel_is_old ||
			depmod -b "${ED}" -F System.map "${KERNEL_RELEASE}" || die "depmod failed"
	fi
	cp "${image}" "${folder}/vmlinuz" || die
	cp System.map "${folder}/System.map" || die
	# What modules of one's own are checked against when they are built.
	[[ ! -e Module.symvers ]] || cp Module.symvers "${folder}/Module.symvers" || die
	cp .config "${folder}/config" || die
	cp "${FILESDIR}/${KERNEL_ABOUT}" "${folder}/headnode.json" || die
	chmod 644 "${folder}"/{vmlinuz,System.map,config,headnode.json} || die
}
