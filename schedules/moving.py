"""What moves a ring: publish, promote, roll back, renew, each a plain function that does it once.

Another key renews all of them (`replace_key_once`).

Nothing here knows of mirrors or builders: a publish starts without importing them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from binhost.gates import Waivers
from binhost.publish import Order, Published, promote, publish, renew, rollback
from headnode.errors import ConfigError, HeadnodeError
from schedules.gates import gates_of
from schedules.observer import Observer
from schedules.site import Site


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What whoever moves a ring says about it: a note, and the gates to let pass.

    Its deployment is numbered above `above` (`binhost.publish.Order`).
    """

    note: str = ""
    waive: frozenset[str] = frozenset()
    above: int = 0


def publish_once(
    site: Site,
    class_name: str,
    ring: str | None,
    *,
    now: datetime,
    asked: Asked = Asked(),
    watch: Observer,
) -> Published:
    """Put what was built last in front of a ring (None: the first).

    Raises:
        PublishError, BusyError: the ring is as it was.
    """
    site.require_space()
    return publish(site.binhost(class_name), _order(site, class_name, ring, now, asked, watch))


def promote_once(
    site: Site,
    class_name: str,
    ring: str,
    number: int | None,
    *,
    now: datetime,
    asked: Asked = Asked(),
    watch: Observer,
) -> Published:
    """Put a generation (None: the newest) in front of a ring.

    Raises:
        PublishError, BusyError: the ring is as it was.
    """
    site.require_space()
    return promote(
        site.binhost(class_name), _order(site, class_name, ring, now, asked, watch), number
    )


def rollback_once(
    site: Site,
    class_name: str,
    ring: str,
    number: int | None,
    *,
    now: datetime,
    asked: Asked = Asked(),
    watch: Observer,
) -> Published:
    """Put an older generation (None: the one that it had before) in front of a ring again.

    Raises:
        PublishError, BusyError: the ring is as it was.
    """
    # No look at the free space: the way back stays open on a full disk.
    return rollback(
        site.binhost(class_name), _order(site, class_name, ring, now, asked, watch), number
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """What came of a look at every ring: those that have a new deployment, and what failed."""

    done: tuple[Published, ...]
    failed: Mapping[str, HeadnodeError | OSError]


def renew_once(site: Site, *, now: datetime) -> Renewed:
    """Make every deployment anew that blades would soon refuse, or that tells of other keys.

    A ring (`<class>/<ring>`) that cannot have one stays as it is, and holds up no other.
    """
    done, failed = list[Published](), dict[str, HeadnodeError | OSError]()
    for class_name, cls in site.cluster.classes.items():
        for ring in cls.rings:
            try:
                made = renew(site.binhost(class_name), Order(ring=ring, now=now))
            except (HeadnodeError, OSError) as error:
                failed[f"{class_name}/{ring}"] = error
            else:
                done += [made] if made and made.moved else []
    return Renewed(done=tuple(done), failed=failed)


def replace_key_once(site: Site, old: str, *, name: str, now: datetime) -> list[Published]:
    """Have blades trust the key `old` no more, and another one in its place if it signs.

    That one is trusted already and at hand, or else new, and named `name`. Every ring gets a
    deployment that both have signed, and that tells of `old` no more. Run again, it goes on where
    it was cut off.

    Raises:
        ConfigError: `old` was never trusted, cluster.toml names it, or no key that is at hand is
            one that a ring was told of; nothing changed.
        PublishError, BusyError: a ring could not have one, and is as it was; the others have it.
    """
    keys = site.keys
    if not keys.was_dropped(old):
        keys.require_trusted(old)
        if keys.configured == old:
            raise ConfigError(
                f"cluster.toml names {old} as the key that signs.",
                remedy="Run headnode keys add with the other, set [signing] key to it, and run "
                "this again.",
            )
        held, trusted = keys.held(), keys.trusted()
        _require_known(site, held)
        if keys.signer() == old:
            others = [key for key in held if key != old and key in trusted]
            keys.use(others[0] if others else keys.make(name))
        keys.drop(old)
    renewed = renew_once(site, now=now)
    for error in renewed.failed.values():
        raise error
    return list(renewed.done)


def _require_known(site: Site, held: Collection[str]) -> None:
    for class_name, cls in site.cluster.classes.items():
        for ring in cls.rings:
            newest = site.binhost(class_name).ring(ring).newest()
            if newest and newest.keys and not set(newest.keys).intersection(held):
                raise ConfigError(
                    f"No key is at hand that the blades of the ring {ring} of {class_name} trust, "
                    "so that none can tell them of another.",
                    remedy="Run headnode keys add, headnode keys use KEY --by-hand, headnode keys "
                    "drop OLD, and give every blade its files again.",
                )


def _order(
    site: Site, class_name: str, ring: str | None, now: datetime, asked: Asked, watch: Observer
) -> Order:
    waivers = Waivers(names=asked.waive, note=asked.note)
    name, rings = site.ring(class_name, ring), list(site.klass(class_name).rings)
    return Order(
        ring=name,
        now=now,
        earlier=tuple(rings[: rings.index(name)]),
        above=asked.above,
        why=asked.note,
        gates=gates_of(site, waivers=waivers, now=now, watch=watch),
        waivers=waivers,
    )
