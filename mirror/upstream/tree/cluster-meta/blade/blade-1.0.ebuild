# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="All that a blade has installed"
HOMEPAGE="https://blades.example/"

LICENSE="metapackage"
SLOT="0"
KEYWORDS="amd64"

RDEPEND="
	app-admin/motd-blade
	app-admin/pwgen
	app-misc/bladecount
	app-misc/colours
	app-misc/hello
	app-text/tree
	sys-apps/bladeinfo
	sys-apps/nodekeys
"
