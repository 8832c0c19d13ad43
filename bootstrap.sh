#!/bin/sh
# Gets ready what `make` needs: the system's programs, and a Python environment in .venv.
# Installs system packages only as root, and only with a package manager it knows; else it says what
# is missing and how to get it. Changes nothing else outside this folder.
set -eu
cd "$(dirname "$0")"

# program:Debian package:Gentoo package
NEEDED="
rsync:rsync:net-misc/rsync
ip:iproute2:sys-apps/iproute2
unshare:util-linux:sys-apps/util-linux
nsenter:util-linux:sys-apps/util-linux
setpriv:util-linux:sys-apps/util-linux
mount:mount:sys-apps/util-linux
mksquashfs:squashfs-tools:sys-fs/squashfs-tools
bash:bash:app-shells/bash
gcc:gcc:sys-devel/gcc
make:make:dev-build/make
tar:tar:app-arch/tar
bzip2:bzip2:app-arch/bzip2
xz:xz-utils:app-arch/xz-utils
zstd:zstd:app-arch/zstd
patch:patch:sys-devel/patch
file:file:sys-apps/file
scanelf:pax-utils:app-misc/pax-utils
wget:wget:net-misc/wget
gpg:gpg:app-crypt/gnupg
gpg-agent:gpg-agent:app-crypt/gnupg
git:git:dev-vcs/git
ssh:openssh-client:net-misc/openssh
"

# What only the tests run, and the benchmarks: `./bootstrap.sh tests`.
FOR_TESTS="
gcc-11:gcc-11:sys-devel/gcc
distcc:distcc:sys-devel/distcc
nginx:nginx-light:www-servers/nginx
logrotate:logrotate:app-admin/logrotate
flex:flex:sys-devel/flex
bison:bison:sys-devel/bison
bc:bc:app-alternatives/bc
cpio:cpio:app-alternatives/cpio
perl:perl:dev-lang/perl
modinfo:kmod:sys-apps/kmod
grub-reboot:grub2-common:sys-boot/grub
grub-script-check:grub-common:sys-boot/grub
qemu-system-x86_64:qemu-system-x86:app-emulation/qemu
busybox:busybox-static:sys-apps/busybox
initdb:postgresql:dev-db/postgresql
chromium:chromium:www-client/chromium
sshd:openssh-server:net-misc/openssh
"
[ "${1:-}" != tests ] || NEEDED="$NEEDED$FOR_TESTS"

# Debian has the server's programs in no folder of the PATH; tests start a server of their own.
postgresql=$(printf '%s:' /usr/lib/postgresql/*/bin)

say() { printf '%s\n' "$*" >&2; }

missing() { # field of NEEDED -> the packages for which the program is not there
	for line in $NEEDED; do
		program=${line%%:*}
		PATH="$PATH:/usr/sbin:/sbin:$postgresql" command -v "$program" >/dev/null 2>&1 && continue
		printf '%s\n' "$line" | cut -d: -f"$1"
	done
	[ -e /usr/include/stdio.h ] || [ "$1" != 2 ] || echo libc6-dev
	[ -e /usr/include/libelf.h ] || [ "$1" != 2 ] || echo libelf-dev
	[ -e /usr/include/openssl/ssl.h ] || [ "$1" != 2 ] || echo libssl-dev
	[ -n "$(find_python)" ] || [ "$1" != 2 ] || printf 'python3\npython3-venv\n'
	[ -n "$(find_python)" ] || [ "$1" != 3 ] || echo dev-lang/python
}

find_python() { # a Python of 3.11 or newer that can make environments
	for python in ${PYTHON:-} python3 python3.13 python3.12 python3.11 /usr/bin/python3; do
		if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1; then
			command -v "$python"
			return
		fi
	done
}

install() {
	if command -v apt-get >/dev/null 2>&1; then
		packages=$(missing 2 | sort -u | tr '\n' ' ')
		how="apt-get install $packages"
	elif command -v emerge >/dev/null 2>&1; then
		packages=$(missing 3 | sort -u | tr '\n' ' ')
		how="emerge --noreplace $packages"
	else
		packages=$(missing 1 | sort -u | tr '\n' ' ')
		how="your package manager, for these programs: $packages"
	fi
	[ -n "$packages" ] || return 0
	if [ "$(id -u)" != 0 ]; then
		say "Missing: $packages" "As root: $how" "Then run this again."
		exit 2
	fi
	say "Installing: $packages"
	case $how in
	apt-get*)
		export DEBIAN_FRONTEND=noninteractive
		apt-get update -qq
		# shellcheck disable=SC2086 # a list of words
		apt-get install -qq -y --no-install-recommends $packages >/dev/null
		case " $packages" in
		*" nginx"*) # for tests, which start their own: Debian has started one on port 80
			systemctl disable --now nginx >/dev/null 2>&1 || true
			;;
		esac
		case " $packages" in
		*" postgresql"*) # likewise, on port 5432
			systemctl disable --now postgresql >/dev/null 2>&1 || true
			;;
		esac
		;;
	emerge*)
		# shellcheck disable=SC2086
		emerge --noreplace --quiet $packages
		;;
	*)
		say "Missing: $packages" "Get them with $how. Then run this again."
		exit 2
		;;
	esac
}

environment() {
	if [ -e .venv/.ready ] && [ .venv/.ready -nt pyproject.toml ]; then
		return
	fi
	say "Making the Python environment in .venv"
	[ -x .venv/bin/python ] || "$(find_python)" -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch .venv/.ready
}

install
environment
