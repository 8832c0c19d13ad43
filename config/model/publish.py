"""What stands between a build and the blades: what is kept, checked and signed."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from config.model.base import Section
from config.values import Count, Days, Fingerprint, Place, Seconds


class Binhost(Section):
    """How long published packages are kept: what `headnode generations gc` leaves."""

    keep_generations: Count = Field(
        10,
        ge=1,
        description="The newest generations that are kept whatever happens; a ring's own, the one "
        "it can go back to and those with a tag are kept besides. Ten are ten nights with news: "
        "an old one costs only the packages that no newer one has.",
    )
    keep_days: Days = Field(
        7.0,
        description="Days for which a generation is kept after the last ring left it. A blade that "
        "was in the middle of a merge, or switched off for the weekend, still holds that index and "
        "fetches its files. 0: none is kept for that.",
    )


class Gate(StrEnum):
    """What a generation can have to pass before a ring gets it, the cheapest first."""

    INTEGRITY = "integrity"
    LICENCE = "licence"
    MONOTONIC = "monotonic"
    CLOSURE = "closure"
    SONAME = "soname"
    SMOKE = "smoke"
    CONVERGED = "converged"
    WAY_BACK = "way-back"


class Publish(Section):
    """What a generation has to pass before a ring gets it."""

    gates: tuple[Gate, ...] = Field(
        tuple(Gate),
        description="The gates that are asked. All of them, "
        "since one bad publish costs a whole cluster. A machine that cannot run lab blades (no "
        "root's rights, no overlayfs) can do `integrity` and `monotonic`. Empty: none is asked.",
    )
    max_gone_percent: Count = Field(
        20,
        ge=0,
        le=100,
        description="Share of a ring's packages, in percent, that may disappear at once even where "
        "the set says so: a truncated world file says so too. 0: never refuse for that.",
    )
    pull_timeout_s: Seconds = Field(
        3600.0,
        description="Seconds that a pull on the lab blade may take. The first one installs "
        "everything; later ones what changed.",
    )
    smoke_timeout_s: Seconds = Field(
        60.0,
        description="Seconds that one `smoke` command, or one check that a package brings, may "
        "take.",
    )


class SigningMode(StrEnum):
    """Whether blades check where packages come from."""

    ON = "on"
    OFF = "off"


class Signing(Section):
    """How blades know that packages and deployments are this headnode's."""

    mode: SigningMode = Field(
        SigningMode.ON,
        description="`on`: packages and deployments are signed, and blades refuse any other. "
        "`off`: whoever can answer in the headnode's place installs what he likes as root.",
    )
    home: Place | None = Field(
        None,
        examples=["/root/.gnupg"],
        description="gpg's home with the key that signs. Not set: keys/signing in the state "
        "folder, where `headnode init` makes one.",
    )
    key: Fingerprint | None = Field(
        None,
        examples=["0123456789ABCDEF0123456789ABCDEF01234567"],
        description="Fingerprint of the key that signs, if it is one of your own; an agent or a "
        "card may hold it. Not set: the one that `headnode keys use` chose.",
    )
    valid_days: Days = Field(
        14.0,
        gt=0,
        description="Days after which blades refuse a deployment, so that nobody can hold them at "
        "an old state by answering in the headnode's place. `headnode serve` renews each when half "
        "of that is over: with the default, the headnode may be off for a week.",
    )
