# Distributed under the terms of the GNU General Public License v2 or later

EAPI=8

DESCRIPTION="One headnode for a Gentoo cluster: mirrors once, builds once, every blade pulls"
HOMEPAGE="https://headnode.example/"
SRC_URI="${P}.tar.gz"
LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64 arm64 x86"
RESTRICT="fetch"

# No eclass: its modules have general names (config, mirror), so they go into a folder of their own
# and not into one Python's site-packages. It runs by whichever python3 has the packages below.
RDEPEND="
	>=dev-lang/python-3.11
	>=dev-python/apscheduler-3.10.4
	<dev-python/apscheduler-4
	>=dev-python/click-8.1
	>=dev-python/clustershell-1.10
	>=app-portage/gemato-20.8
	>=dev-python/isal-1.7
	>=dev-python/jinja2-3.1
	>=sys-apps/portage-3.0.80
	>=dev-python/prometheus-client-0.20
	>=dev-python/pydantic-2.7
	>=dev-python/rich-13.7
	>=dev-python/sqlalchemy-2.0.30
	>=dev-python/sh-2.0.7
	<dev-python/sh-3
	>=dev-python/zstandard-0.22
	>=dev-python/tomlkit-0.13
	sys-libs/timezone-data
	app-crypt/gnupg
	net-misc/rsync
	sys-apps/iproute2
	sys-apps/util-linux
	sys-fs/squashfs-tools
"
BDEPEND="
	>=dev-lang/python-3.11
	>=dev-python/click-8.1
	>=dev-python/hatchling-1.25
	>=dev-python/myst-parser-4
	>=dev-python/sphinx-8
"

HOME_OF_IT="/usr/lib/headnode"

pkg_nofetch() {
	einfo "${A} is what \`python3 -m hatchling build -t sdist\` makes of headnode's sources:"
	einfo "put it into your DISTDIR."
}

src_compile() {
	python3 -m hatchling build -t wheel -d dist || die
	python3 -m zipfile -e dist/*.whl site || die
	python3 -m sphinx -q -b man docs man || die
	local kind
	for kind in systemd openrc logrotate; do
		PYTHONPATH=site python3 -P -m config.service ${kind} > ${kind} || die
	done
	for kind in bash zsh fish; do
		PYTHONPATH=site _HEADNODE_COMPLETE=${kind}_source \
			python3 -P -c "from headnode.cli import main; main()" > headnode.${kind} || die
	done
}

src_install() {
	insinto ${HOME_OF_IT}
	doins -r site/.
	python3 -m compileall -q -s "${D}" "${ED}${HOME_OF_IT}" || die
	# The variable and not -m in that folder: it starts processes of its own.
	newbin - headnode <<-PROGRAM
		#!/bin/sh
		export PYTHONPATH="${EPREFIX}${HOME_OF_IT}\${PYTHONPATH:+:\$PYTHONPATH}"
		exec python3 -P -c "from headnode.quick import main; main()" "\$@"
	PROGRAM
	insinto /usr/lib/systemd/system
	newins systemd headnode.service
	newinitd openrc headnode
	insinto /etc/logrotate.d
	newins logrotate headnode
	insinto /usr/share/bash-completion/completions
	newins headnode.bash headnode
	insinto /usr/share/zsh/site-functions
	newins headnode.zsh _headnode
	insinto /usr/share/fish/vendor_completions.d
	doins headnode.fish
	doman man/headnode.8
	dodoc README.md CHANGELOG.md
	keepdir /etc/headnode
}

pkg_postinst() {
	[[ -n ${REPLACING_VERSIONS} ]] ||
		elog "Write /etc/headnode/cluster.toml: cd /etc/headnode && headnode init"
}
