"""The keys: which one signs, and which public ones blades trust.

::

    <state>/keys/signing/            gpg's home with the headnode's secret keys (0700)
    <state>/keys/signer              fingerprint of the key that signs
    <state>/keys/by-hand             fingerprint of one that no deployment tells blades of first
    <state>/keys/trusted/<fpr>.asc   public keys that blades are given
    <state>/keys/dropped/<fpr>.asc   those that they were given, and are to forget
    <state>/keys/verify/             gpg's home made of them, as blades have it

A second key is trusted before it signs: `add` makes or takes it, from the next deployment on blades
have it, and `use` has it sign. A deployment is signed by each trusted key that is at hand, and by
each dropped one, so that a blade which missed some nights still finds one that it knows, and learns
from it which to trust. That makes a dropped key worth no more: who knows only it trusts it anyway.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from config.trust import TrustError, fingerprints, make_home
from headnode.errors import ConfigError, PublishError
from headnode.files import write_atomic
from headnode.process import Completed, run

GPG_TIMEOUT_S = 60.0
FINGERPRINT = re.compile(r"[0-9A-F]{40}")
SOCKET_PATH_BYTES = 107  # unix(7): sun_path, less its NUL
LONGEST_SOCKET = "S.gpg-agent.extra"


def gpg(home: Path, *words: str | Path, check: bool = True) -> Completed:
    """Run gpg in `home`.

    Raises:
        CommandError: it failed, and `check` is set.
    """
    argv = ["gpg", f"--homedir={home}", "--batch", "--no-tty", "--quiet"]
    return run([*argv, *words], timeout_s=GPG_TIMEOUT_S, check=check)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of a headnode. `home` and `configured` are cluster.toml's, if it names them."""

    folder: Path
    home: Path
    configured: str | None = None

    def trusted(self) -> dict[str, str]:
        """The public keys that blades are given: fingerprint -> armored text."""
        files = sorted((self.folder / "trusted").glob("*.asc"))
        return {path.stem: path.read_text() for path in files}

    def keyring(self) -> str:
        """All of them as one armored text."""
        return "".join(self.trusted().values())

    def signer(self) -> str:
        """The fingerprint of the key that signs.

        Raises:
            PublishError: there is none, or blades would not trust it.
        """
        path = self.folder / "signer"
        key = self.configured or (path.read_text().strip() if path.is_file() else "")
        if not key:
            raise PublishError(
                "There is no key to sign with.",
                remedy='headnode keys add makes one; [signing] mode = "off" does without.',
            )
        if key not in self.trusted():
            raise PublishError(
                f"The key {key} is to sign, and blades are not told to trust it.",
                remedy=f"Run headnode keys add {key}.",
            )
        return key

    def sealers(self) -> list[str]:
        """The trusted keys whose secret is at hand, the one that signs first."""
        key, held = self.signer(), self.held()
        if key not in held:
            raise PublishError(
                f"{self.home} has no secret key {key}.",
                remedy="Put it there, or name the one that signs: headnode keys use.",
            )
        return [key, *(each for each in self.trusted() if each in held and each != key)]

    def leaving(self) -> list[str]:
        """The dropped keys whose secret is at hand."""
        dropped = sorted(path.stem for path in (self.folder / "dropped").glob("*.asc"))
        gone = set(dropped).difference(self.trusted())
        held = self.held() if gone else []
        return [each for each in dropped if each in gone and each in held]

    def held(self) -> list[str]:
        """The keys whose secret is at hand; an agent or a card may have it."""
        if not self.home.is_dir():
            return []
        listed = gpg(self.home, "--list-secret-keys", "--with-colons").output
        return fingerprints(listed.replace("\nsec:", "\npub:").replace("sec:", "pub:", 1))

    def by_hand(self) -> bool:
        """Whether blades are given the key that signs by hand (`use`)."""
        path = self.folder / "by-hand"
        return path.is_file() and path.read_text().strip() == self.signer()

    def make(self, name: str) -> str:
        """Make a key that signs, trusted from the next deployment on, and return its fingerprint.

        `name` is who it says it is, and may be another key's, too. It has no passphrase: the
        headnode signs at night.
        """
        self._require_short_path()
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        done = gpg(
            self.home,
            # --yes: also where a key has that name.
            *("--yes", "--status-fd=1", "--passphrase=", "--quick-generate-key"),
            *(name, "ed25519", "sign", "never"),
        )
        self.end_agent()  # it would outlive us for nothing: there is no passphrase to keep
        found = re.search(r"KEY_CREATED \S+ ([0-9A-F]{40})", done.output)
        if found is None:
            raise PublishError(f"gpg made a key and did not say which: {done.tail}")
        return self.trust(found[1])

    def end_agent(self) -> None:
        """End the agent that gpg left running for `home`; the next use starts one."""
        argv = ["gpgconf", f"--homedir={self.home}", "--kill", "gpg-agent"]
        run(argv, timeout_s=GPG_TIMEOUT_S, check=False)

    def trust(self, key: str) -> str:
        """Have blades trust a key of `home`; the first also signs. Returns its fingerprint.

        Raises:
            ConfigError: there is no such key.
        """
        armored = gpg(self.home, "--armor", "--export", key, check=False).output
        return self.take(armored, key)

    def take(self, armored: str, name: str) -> str:
        """Have blades trust a public key, the only one in `armored`; `name` is for the error.

        Raises:
            ConfigError: it is not one public key.
        """
        beside = self.folder / ".new.asc"
        write_atomic(beside, armored)
        try:
            listed = gpg(self.folder, "--show-keys", "--with-colons", beside, check=False).output
        finally:
            beside.unlink()
        found = fingerprints(listed)
        if len(found) != 1:
            raise ConfigError(
                f"{name} is {len(found) or 'no'} public key{'s' if len(found) > 1 else ''}.",
                remedy="Give one: its fingerprint, or a file of gpg --armor --export.",
            )
        write_atomic(self.folder / "trusted" / f"{found[0]}.asc", armored)
        (self.folder / "dropped" / f"{found[0]}.asc").unlink(missing_ok=True)
        if not self.configured and not (self.folder / "signer").exists():
            self.use(found[0])
        return found[0]

    def use(self, key: str, *, by_hand: bool = False) -> None:
        """Have a trusted key sign from now on; `by_hand`, also where blades were not told of it.

        Raises:
            ConfigError: it is not trusted, or cluster.toml names the key that signs.
        """
        self.require_trusted(key)
        if by_hand:
            write_atomic(self.folder / "by-hand", f"{key}\n")
            if key == self.configured:
                return
        if self.configured:
            raise ConfigError(
                f"cluster.toml names the key that signs: {self.configured}.",
                remedy="Change [signing] key.",
            )
        write_atomic(self.folder / "signer", f"{key}\n")

    def drop(self, key: str) -> None:
        """Have blades trust a key no more, from the next deployment on.

        Its secret stays: those that know no other learn that from a deployment that it signs, too.

        Raises:
            ConfigError: it is not trusted, or is the one that signs.
        """
        self.require_trusted(key)
        if key == self.signer():
            raise ConfigError(f"{key} signs.", remedy="Let another sign first: headnode keys use.")
        write_atomic(self.folder / "dropped" / f"{key}.asc", self.trusted()[key])
        (self.folder / "trusted" / f"{key}.asc").unlink()

    def was_dropped(self, key: str) -> bool:
        """Whether blades trusted a key, and are to forget it."""
        return key not in self.trusted() and (self.folder / "dropped" / f"{key}.asc").is_file()

    def verify_home(self) -> Path:
        """A gpg home that trusts what blades trust."""
        home = self.folder / "verify"
        try:
            make_home(self.keyring(), home)
        except TrustError as error:
            raise PublishError(f"{home} cannot be made: {error}.") from error
        return home

    def require_trusted(self, key: str) -> None:
        """Check that blades are told to trust a key.

        Raises:
            ConfigError: they are not; it names those that they are told of.
        """
        known = self.trusted()
        if key not in known:
            raise ConfigError(
                f"{key} is not trusted.", remedy=f"These are: {', '.join(known) or 'none'}."
            )

    def _require_short_path(self) -> None:
        if len(str(self.home / LONGEST_SOCKET)) > SOCKET_PATH_BYTES:
            raise ConfigError(
                f"{self.home} is too long a path for gpg's socket.",
                remedy="Set [signing] home to a shorter one.",
            )
