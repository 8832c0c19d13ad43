"""Bring a gateway into the cluster: a key of its own for the blades, and the blades' host keys.

On the gateway, in the home folder of the user that the headnode comes in as (`gateway_options`)::

    .ssh/authorized_keys         the headnode's key: a shell, since a gateway runs what it is told
    .ssh/headnode/id_ed25519     the gateway's own, made there; bound to `headnode-gate` on blades
    .ssh/headnode/known_hosts    the host keys that were confirmed on the headnode, and no others

That user needs no other rights, and need not be root.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Sequence

from blades.enrol import COMMENT, ENROL_S, SCAN_S, Wallet, authorize_line
from headnode.errors import HeadnodeError, RolloutError
from headnode.files import write_atomic
from headnode.process import run

FOLDER = "~/.ssh/headnode"
# The options by which a gateway's ssh comes in to blades, as root: it may be another user itself.
WAY_ON = (
    f"-i{FOLDER}/id_ed25519 -oIdentitiesOnly=yes -oUserKnownHostsFile={FOLDER}/known_hosts "
    "-oGlobalKnownHostsFile=/dev/null -oStrictHostKeyChecking=yes"
)
NEW = f"{FOLDER}/known_hosts.$$"
TAKE_HOSTS = f"set -e; umask 077; mkdir -p {FOLDER}; cat > {NEW}; mv {NEW} {FOLDER}/known_hosts"


def install_line(gateway: str, public: str) -> str:
    """The shell line that is run on the gateway; host keys come on its standard input. Pure."""
    key = f"{FOLDER}/id_ed25519"
    make = f"ssh-keygen -q -t ed25519 -N '' -C {shlex.quote(f'{COMMENT}/{gateway}')} -f {key}"
    line = (
        f"{TAKE_HOSTS}; test -e {key} || {make}; "
        f"{authorize_line('~/.ssh', [f'restrict {public}'])}; cat {key}.pub"
    )
    return f"exec sh -c {shlex.quote(line)}"


def enrol_gateway(
    wallet: Wallet, gateway: str, lines: Sequence[str], options: Sequence[str]
) -> None:
    """Set a gateway up; `lines` are its confirmed host keys, `options` the administrator's of ssh.

    Raises:
        RolloutError: he does not come in, or it cannot be set up.
    """
    wallet.trust(gateway, lines)
    argv = wallet.enrol_argv(gateway, options, install_line(gateway, wallet.public()))
    try:
        said = run(argv, timeout_s=ENROL_S, stdin=wallet.known_hosts).output
    except HeadnodeError as error:
        raise RolloutError(f"{gateway} could not be set up: {error}") from error
    write_atomic(wallet.of_gateway(gateway), read_public(gateway, said) + "\n")


def read_public(gateway: str, said: str) -> str:
    """The gateway's public key in what it printed. Pure.

    Raises:
        RolloutError: there is none.
    """
    found = re.findall(r"^(ssh-ed25519 [A-Za-z0-9+/=]+)(?: |$)", said, re.MULTILINE)
    if not found:
        raise RolloutError(f"{gateway} shows no key of its own.", remedy=f"Look at {FOLDER} there.")
    return f"{found[-1]} {COMMENT}/{gateway}"


def give_hosts(wallet: Wallet, gateway: str, options: Sequence[str]) -> None:
    """Give a gateway the blades' host keys as the headnode has them, by the headnode's own key.

    Raises:
        RolloutError: it is not reached.
    """
    argv = ["ssh", "-oBatchMode=yes", "-oConnectTimeout=10", *options, gateway]
    try:
        run(
            [*argv, f"exec sh -c {shlex.quote(TAKE_HOSTS)}"],
            timeout_s=SCAN_S,
            stdin=wallet.known_hosts,
        )
    except HeadnodeError as error:
        raise RolloutError(f"{gateway} was not given the blades' host keys: {error}") from error


def look_line(python: str) -> str:
    """The shell line that says what a gateway has. Pure.

    The version of ClusterShell, and the digest of the host keys.
    """
    version = "import ClusterShell; print('ClusterShell', ClusterShell.__version__)"
    line = (
        f"{shlex.quote(python)} -c {shlex.quote(version)} && sha256sum {FOLDER}/known_hosts; true"
    )
    return f"exec sh -c {shlex.quote(line)}"


def hosts_digest(wallet: Wallet) -> str:
    """The digest of the host keys that the headnode has; empty if it has none."""
    if not wallet.known_hosts.exists():
        return ""
    return hashlib.sha256(wallet.known_hosts.read_bytes()).hexdigest()
