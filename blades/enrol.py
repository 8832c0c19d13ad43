"""Bring a blade into the cluster over SSH: what it is given, and the headnode's key.

The administrator comes in with a way of his own (a key, an agent, a password); what the headnode
may do from then on is bound to one program, `headnode-gate`: pull, status, health, confirm, restart
into the due kernel. The blade's host key is confirmed by its fingerprint before anything is sent,
and no other is taken later. Command lines and texts are made here; `headnode blades enrol` runs
them.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blades import timer
from blades.boot import boot_files
from blades.setup import PULL_PATH, program_files, to_tar
from config.portage import TRUST_PATH, Rendered, trust_helper
from headnode.errors import HeadnodeError, RolloutError
from headnode.files import write_atomic
from headnode.process import run

GATE_PATH = "/usr/local/sbin/headnode-gate"
COMMENT = "headnode"
KEY_TYPES = "ed25519,ecdsa,rsa"
SCAN_S = 30.0
ENROL_S = 300.0
GATE = f"""#!/bin/sh
# All that the headnode's key may do on this blade (authorized_keys, command=). By headnode.
set -f
case $SSH_ORIGINAL_COMMAND in
    '{PULL_PATH}' | '{PULL_PATH} --confirm' | '{PULL_PATH} health' | '{PULL_PATH} status') ;;
    '{PULL_PATH} reboot' | '{PULL_PATH} booted') ;;
    '{PULL_PATH} confirm '*[!0-9]*) refused=1 ;;
    '{PULL_PATH} confirm '[0-9]*) ;;
    *) refused=1 ;;
esac
if [ -n "$refused" ]; then
    echo "headnode-gate: the headnode may not run this here: $SSH_ORIGINAL_COMMAND" >&2
    exit 126
fi
exec $SSH_ORIGINAL_COMMAND
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """What the headnode needs to get into blades, in its folder `keys/ssh`.

    ::

        id_ed25519(.pub)      the headnode's own key, for the forced command alone
        known_hosts           the host keys of blades and gateways, each confirmed
        gateways/<name>.pub   the keys of gateways, for the forced command alone
    """

    folder: Path

    @property
    def key(self) -> Path:
        """The private key."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The host keys."""
        return self.folder / "known_hosts"

    def public(self) -> str:
        """The public key; a new pair is made if there is none."""
        with self._alone():
            if not self.key.exists():
                words: list[str | Path] = ["-q", "-t", "ed25519", "-N", "", "-C", COMMENT, "-f"]
                run(["ssh-keygen", *words, self.key], timeout_s=SCAN_S)
        return self.key.with_suffix(".pub").read_text().strip()

    def of_gateway(self, gateway: str) -> Path:
        """The public key of a gateway; the private one never leaves it."""
        return self.folder / "gateways" / f"{gateway}.pub"

    def publics(self, gateways: Sequence[str]) -> list[str]:
        """The keys that may come in to blades: the headnode's, and those of enrolled gateways."""
        keys = [path for each in gateways if (path := self.of_gateway(each)).exists()]
        return [self.public(), *(path.read_text().strip() for path in keys)]

    def trust(self, blade: str, lines: Sequence[str]) -> None:
        """Take these host keys for the blade's, and no others."""
        with self._alone():
            known = self.known_hosts.read_text().splitlines() if self.known_hosts.exists() else []
            others = [line for line in known if _blade_of(line) != blade]
            write_atomic(self.known_hosts, "\n".join(sorted([*others, *lines])) + "\n")

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait for whoever else enrols: 58 blades are enrolled side by side."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self.folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def ssh_options(self) -> list[str]:
        """The options of ssh with which the headnode comes in."""
        return [f"-i{self.key}", "-oIdentitiesOnly=yes", *self._hosts()]

    def _hosts(self) -> list[str]:
        return [
            f"-oUserKnownHostsFile={self.known_hosts}",
            "-oGlobalKnownHostsFile=/dev/null",
            "-oStrictHostKeyChecking=yes",
        ]

    def enrol_argv(self, blade: str, options: Sequence[str], line: str) -> list[str]:
        """The command by which the administrator comes in and the blade is set up. Pure."""
        return ["ssh", *self._hosts(), *options, blade, line]


def _blade_of(line: str) -> str:
    return line.split(" ", 1)[0].split(",")[0]


def scan(blade: str, port: int = 22) -> list[str]:
    """The host keys that a blade shows, as lines of known_hosts; not confirmed by anybody.

    Raises:
        RolloutError: it shows none.
    """
    argv = ["ssh-keyscan", "-T10", "-p", str(port), "-t", KEY_TYPES, blade]
    said = run(argv, timeout_s=SCAN_S, check=False).output
    lines = [line for line in said.splitlines() if line and not line.startswith("#")]
    if not lines:
        raise RolloutError(f"{blade} shows no host key: does sshd run there?")
    names = blade if port == 22 else f"{blade},[{blade}]:{port}"  # as ssh looks it up: sshd(8)
    return sorted(f"{names} {line.split(' ', 1)[1]}" for line in lines)


def fingerprint(line: str) -> str:
    """The fingerprint of a line of known_hosts, as `ssh-keygen -l` prints it. Pure.

    Raises:
        RolloutError: it is no such line.
    """
    try:
        blob = base64.b64decode(line.split()[2], validate=True)
    except (IndexError, binascii.Error) as error:
        raise RolloutError(f"{line!r} is no host key.") from error
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def confirmed(lines: Sequence[str], wanted: str) -> list[str]:
    """Those of the shown host keys that have the fingerprint which somebody read on the blade.

    Raises:
        RolloutError: none has.
    """
    good = [line for line in lines if fingerprint(line) == wanted]
    if not good:
        shown = "\n".join(f"  {fingerprint(line)} ({line.split()[1]})" for line in lines)
        raise RolloutError(
            f"The blade shows other host keys than {wanted}:\n{shown}",
            remedy="It is another machine, was installed anew, or somebody is in between.",
        )
    return good


def authorized_line(public: str) -> str:
    """The line of authorized_keys that binds a key to the gate. Pure."""
    return f'restrict,command="{GATE_PATH}" {public}'


def authorize_line(folder: str, lines: Sequence[str]) -> str:
    """The shell line that puts `lines` in place of all of headnode's in `authorized_keys`. Pure.

    `folder` is as the shell reads it.
    """
    keys = f"{folder}/authorized_keys"
    return (
        f"mkdir -p {folder}; touch {keys}; grep -vE ' {COMMENT}(/[^ ]+)?$' {keys} > {keys}.new || "
        f"true; printf '%s\\n' {shlex.join(lines)} >> {keys}.new; mv {keys}.new {keys}"
    )


def install_line(publics: Sequence[str]) -> str:
    """The shell line that root runs on the blade; the tar comes on its standard input. Pure."""
    authorize = authorize_line("/root/.ssh", [authorized_line(each) for each in publics])
    return (
        f"set -e; umask 022; rm -f {' '.join(timer.PATHS)}; tar -x -C / -f -; umask 077; "
        f"{authorize}; {timer.settle_line()}"
    )


def package_files() -> Rendered:
    """What app-admin/headnode-pull has: all of `enrol` that the blades of every cluster have.

    The same content at the same paths, so that it does not matter which of them comes first.
    """
    boot = boot_files()
    ours = {GATE_PATH: GATE, TRUST_PATH: trust_helper()}
    return Rendered(files={**program_files(), **ours, **boot.files}, links=boot.links)


def enrol(
    wallet: Wallet,
    blade: str,
    rendered: Rendered,
    lines: Sequence[str],
    options: Sequence[str],
    *,
    gateways: Sequence[str] = (),
) -> None:
    """Set a blade up; `lines` are its confirmed host keys, `options` the administrator's of ssh.

    The keys of `gateways` may do there what the headnode's may.

    Raises:
        RolloutError: he does not come in, or it cannot be set up.
    """
    wallet.trust(blade, lines)
    argv = wallet.enrol_argv(blade, options, install_line(wallet.publics(gateways)))
    content = wallet.folder / f".{blade}.tar"
    files = {**rendered.files, GATE_PATH: GATE}
    write_atomic(content, to_tar(Rendered(files=files, links=rendered.links)), mode=0o600)
    try:
        run(argv, timeout_s=ENROL_S, stdin=content)
    except HeadnodeError as error:
        raise RolloutError(f"{blade} could not be set up: {error}") from error
    finally:
        content.unlink()
