"""Signatures: of packages, in the format that Portage checks, and of deployments.

Packages are signed in staging, outside the builder, which never sees a secret key. The format is
Portage's to write and to check (GLEP 78; `portage.gpkg`), so it is Portage that is asked, with a
configuration of our own: it reads none of the machine's.
"""

from __future__ import annotations

import logging
import os
import shlex
import tarfile
from collections.abc import Collection, Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from binhost.entry import XPAK
from binhost.keys import Keys, gpg
from headnode.errors import CommandError, PublishError
from headnode.files import sync_folder
from headnode.process import environment

log = logging.getLogger(__name__)
SEAL_SUFFIX = ".asc"
DIGEST = "SHA512"
GPG = "gpg --batch --no-tty --quiet"


class FormatSettings(dict[str, str]):
    """What `portage.gpkg` asks of Portage's configuration."""

    def __init__(self, features: frozenset[str], **values: str) -> None:
        super().__init__(values)
        self.features = features

    def environ(self) -> dict[str, str]:
        """The environment that gpg runs in."""
        return environment()


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """What signs: `key` packages, and deployments together with `sealers` and those `leaving`.

    `keyring` is what blades are told to trust, `trusted` the fingerprints in it. `leaving` are keys
    that blades trusted before. `by_hand`: blades have `keyring` without being told of it.
    """

    home: Path
    verify_home: Path
    key: str
    sealers: tuple[str, ...]
    keyring: str
    trusted: tuple[str, ...]
    leaving: tuple[str, ...] = ()
    by_hand: bool = False

    @classmethod
    def of(cls, keys: Keys) -> Signer:
        """The signer that these keys make.

        Raises:
            PublishError: there is no key to sign with, or blades would not trust it.
        """
        sealers = keys.sealers()
        return cls(
            home=keys.home,
            verify_home=keys.verify_home(),
            key=sealers[0],
            sealers=tuple(sealers),
            keyring=keys.keyring(),
            trusted=tuple(keys.trusted()),
            leaving=tuple(keys.leaving()),
            by_hand=keys.by_hand(),
        )

    def is_known(self, told: Container[str]) -> bool:
        """Whether who trusts the keys `told` takes what is sealed here."""
        return any(key in told for key in (*self.sealers, *self.leaving))

    def seal(self, path: Path, told: Collection[str] = ()) -> None:
        """Write a detached, armored signature of the file `path` beside it, as `<path>.asc`.

        Blades that were told of the keys `told` (none: of any) take it; a key that is `leaving`,
        and expired or locked since, is done without where another suffices. It is not durable yet.

        Raises:
            PublishError: gpg did not sign.
        """
        seal = path.with_name(f"{path.name}{SEAL_SUFFIX}")
        try:
            try:
                self._seal(path, seal, (*self.sealers, *self.leaving))
            except CommandError as error:
                able = [key for key in self.leaving if self._can_sign(path, seal, key)]
                keys = (*self.sealers, *able)
                enough = self.by_hand or not told or any(key in told for key in keys)
                if len(able) == len(self.leaving) or not enough:
                    raise
                without = ", ".join(key for key in self.leaving if key not in able)
                log.warning("Signed without %s: %s", without, error.tail)
                self._seal(path, seal, keys)
        except CommandError as error:
            raise PublishError(f"{path.name} could not be signed: {error.tail}") from error
        seal.chmod(0o644)

    def _can_sign(self, path: Path, seal: Path, key: str) -> bool:
        try:
            self._seal(path, seal, (key,))
        except CommandError:
            return False
        return True

    def _seal(self, path: Path, seal: Path, keys: Iterable[str]) -> None:
        users = [word for key in keys for word in ("--local-user", f"{key}!")]
        gpg(self.home, *users, "--yes", "--armor", f"--output={seal}", "--detach-sign", path)

    def sign(self, paths: Iterable[Path]) -> None:
        """Sign packages that have no signature yet, each replaced in one rename.

        Raises:
            PublishError: naming one that could not be signed; one that cannot be, before any is.
        """
        paths = list(paths)
        for path in paths:
            if path.name.endswith(XPAK):
                raise PublishError(
                    f"{path} cannot be signed: the older format has no place for it.",
                    remedy='Build it again as a gpkg; [signing] mode = "off" takes it as it is.',
                )
        unsigned = [path for path in paths if not is_signed(path)]
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            for _ in pool.map(self._sign, unsigned):
                pass

    def verify(self, paths: Iterable[Path]) -> dict[Path, str]:
        """Check packages the way a blade does; see the function `verify`."""
        return verify(paths, self.verify_home)

    def _sign(self, path: Path) -> None:
        from portage.exception import PortageException

        for half_signed in path.parent.glob(f"{path.name}.[0-9]*"):
            half_signed.unlink()  # Portage's, of a run that was killed
        try:
            _package(path, self._settings()).update_signature()
        except (PortageException, tarfile.TarError, OSError, ValueError) as error:
            raise PublishError(
                f"{path} could not be signed: {error or type(error).__name__}.",
                remedy="Is the key there and its agent unlocked? headnode keys list.",
            ) from error
        sync_folder(path.parent)

    def _settings(self) -> FormatSettings:
        settings = _check_settings("binpkg-ignore-signature", self.verify_home)
        settings |= {
            "BINPKG_GPG_SIGNING_BASE_COMMAND": f"{GPG} --sign --armor [PORTAGE_CONFIG]",
            "BINPKG_GPG_SIGNING_DIGEST": DIGEST,
            "BINPKG_GPG_SIGNING_GPG_HOME": shlex.quote(str(self.home)),
            "BINPKG_GPG_SIGNING_KEY": f"{self.key}!",
        }
        return settings


def verify(paths: Iterable[Path], verify_home: Path) -> dict[Path, str]:
    """Check packages the way a blade does; those that it would refuse, with the reason.

    `verify_home` is gpg's, with the keys that blades trust. A package of another format has no
    signature that Portage would look at.
    """
    paths, settings = list(paths), _check_settings("binpkg-request-signature", verify_home)
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        faults = pool.map(lambda path: _fault(path, settings), paths)
        return {path: fault for path, fault in zip(paths, faults, strict=True) if fault}


def _fault(path: Path, settings: FormatSettings) -> str:
    from portage.exception import PortageException

    try:
        _package(path, settings)._verify_binpkg()
    except (PortageException, tarfile.TarError, OSError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


def _check_settings(feature: str, verify_home: Path) -> FormatSettings:
    return FormatSettings(
        frozenset({feature}),
        BINPKG_GPG_VERIFY_BASE_COMMAND=f"{GPG} --verify --no-auto-check-trustdb --status-fd 2 "
        "[PORTAGE_CONFIG] [SIGNATURE]",
        BINPKG_GPG_VERIFY_GPG_HOME=shlex.quote(str(verify_home)),
        GPG_VERIFY_USER_DROP="",
        GPG_VERIFY_GROUP_DROP="",
    )


def _package(path: Path, settings: FormatSettings) -> Any:
    from portage.gpkg import gpkg

    return gpkg(settings=settings, gpkg_file=str(path))


def is_sealed(path: Path, verify_home: Path) -> bool:
    """Whether the detached signature beside the file `path` is one that blades would take.

    Some of several may be by keys that blades do not know; none may be bad.
    Source: GnuPG, doc/DETAILS, "Format of the --status-fd output".
    """
    seal = path.with_name(f"{path.name}{SEAL_SUFFIX}")
    words = ("--no-auto-check-trustdb", "--status-fd=1", "--verify")
    status = gpg(verify_home, *words, seal, path, check=False).output
    each = status.split("[GNUPG:] NEWSIG")
    good = any("[GNUPG:] GOODSIG" in one and "[GNUPG:] TRUST_ULTIMATE" in one for one in each)
    return good and "[GNUPG:] BADSIG" not in status


def is_signed(path: Path) -> bool:
    """Whether a package has signatures, good or not.

    Raises:
        PublishError: it is no whole gpkg.
    """
    try:
        with tarfile.open(path, "r:") as container:
            return any(name.endswith(".sig") for name in container.getnames())
    except (tarfile.TarError, OSError) as error:
        raise PublishError(
            f"{path} is not a whole gpkg: {error}.",
            remedy="Remove it and build the package again.",
        ) from error
