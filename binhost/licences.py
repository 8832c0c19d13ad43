"""Whether binaries may be given away: what a binhost that is open to the public must not offer.

What LICENSE means is Portage's to say (`||`, groups, USE conditionals), so it is Portage that is
asked. Entries have LICENSE and RESTRICT already reduced to the USE that a package was built with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace

from binhost.index import field
from binhost.records import GateReport
from headnode.errors import ConfigError

GATE = "licence"
Missing = Callable[[str], list[str]]
"""Gives the licences of an index entry that are not accepted; [] where none is in the way."""


def redistributable(profiles: Iterable[Path], accepted: str) -> Missing:
    """What looks at entries, for licences `accepted` as in ACCEPT_LICENSE.

    `profiles` are the folders `profiles` of the repositories, whose license_groups say what a
    group is.

    Raises:
        ConfigError: a group that `accepted` names is not there: nothing would be accepted.

    Source: portage.package.ebuild._config.LicenseManager; GLEP 23.
    """
    from portage.package.ebuild._config.LicenseManager import LicenseManager

    folders = [str(each) for each in profiles]
    manager = LicenseManager(SimpleNamespace(profile_locations=folders), user_config=False)
    for word in manager.expandLicenseTokens(accepted.split()):
        if "@" in word:
            raise ConfigError(
                f"There is no licence group {word.lstrip('-')} in {', '.join(folders) or 'no tree'}"
                "/license_groups.",
                remedy="Correct `redistributable` of the class in cluster.toml, "
                "or sync the mirror.",
            )
    manager.set_accept_license_str(accepted)

    def missing(entry: str) -> list[str]:
        cpv, use, text, slot, repo = (
            field(entry, key) or "" for key in ("CPV", "USE", "LICENSE", "SLOT", "REPO")
        )
        found = manager.getMissingLicenses(cpv, use, text, slot, repo)
        return sorted({str(each) for each in found})

    return missing


def check_licences(entries: Mapping[str, str], missing: Missing) -> GateReport:
    """The gate: whether every package (entries by pool name) may be given away.

    A LICENSE that cannot be read is refused as well. Pure.
    """
    refused = [
        f"{field(entry, 'CPV')}: {why}"
        for entry in entries.values()
        if (why := _why_not(entry, missing))
    ]
    if not refused:
        text = f"Every package ({len(entries)}) may be given away."
        return GateReport(gate=GATE, passed=True, report=text)
    listed = "\n".join(f"  {line}" for line in refused)
    return GateReport(
        gate=GATE,
        passed=False,
        report=f"{len(refused)} of {len(entries)} packages may not be given away, and this binhost "
        f"is public:\n{listed}",
    )


def _why_not(entry: str, missing: Missing) -> str:
    from portage.exception import InvalidDependString

    if "bindist" in (field(entry, "RESTRICT") or "").split():
        return "RESTRICT=bindist"
    try:
        licences = missing(entry)
    except InvalidDependString as error:
        return f"its LICENSE cannot be read: {error}"
    return f"LICENSE {', '.join(licences)}" if licences else ""
