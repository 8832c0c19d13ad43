# Part of headnode, GPL-2.0-or-later

EAPI=8

DESCRIPTION="Generate passwords that can be pronounced"
HOMEPAGE="https://sourceforge.net/projects/pwgen/"
SRC_URI="mirror://debian/pool/main/p/pwgen/${PN}_${PV}.orig.tar.gz -> ${P}.tar.gz"

LICENSE="GPL-2"
SLOT="0"
KEYWORDS="amd64"
