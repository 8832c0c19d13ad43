"""The headnode itself: where its state is, and what it serves where."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from config.model.base import Section
from config.values import Count, Host, Place, Port


class State(Section):
    """Where headnode keeps what it knows and has built."""

    path: Place = Field(
        Path("/var/lib/headnode"),
        description="Folder of all state: mirror, packages, generations, logs. One file system, "
        "since files are put in place by rename and hard link.",
    )
    reserve_mib: Count = Field(
        1024,
        ge=0,
        description="Free space, in MiB, below which sync, build and publish refuse to start. "
        "A disk that fills up in the middle of a build costs the night. 0: never refuse.",
    )


class Serve(Section):
    """What the daemon listens on, and how blades reach it."""

    host: Host = Field(
        "headnode",
        description="Name or address under which blades reach the headnode. It is written into "
        "their binrepos.conf and repos.conf, and into every index.",
    )
    listen: Host = Field(
        "0.0.0.0",  # noqa: S104 (blades are other machines)
        description="Address that HTTP and rsync listen on. Blades are other machines, so the "
        "default is every address; name the cluster network's own where there are others.",
    )
    http_port: Port = Field(8080, description="TCP port of the HTTP server.")
    backend_port: Count = Field(
        0,
        ge=0,
        le=65535,
        description="TCP port on 127.0.0.1 where `headnode serve` answers HTTP instead, when nginx "
        "has http_port: nginx sends the files, and passes on the rest (`headnode serve --nginx` "
        "prints its configuration). 0: there is no nginx, headnode has http_port itself.",
    )
    workers: Count = Field(
        0,
        ge=0,
        description="Processes that answer HTTP, all on http_port. One serves some thousand small "
        "files a second and fills a gigabit link with large ones. 0: as many as the headnode has "
        "cores, at most 4.",
    )
    access_log: Place | None = Field(
        None,
        examples=["/var/log/headnode-access.log"],
        description="File for a line a request, in the combined format that Apache and nginx "
        "write. It grows until it is rotated: rename it, then send `headnode serve` SIGUSR1. Not "
        "set: no access log, since a night of 58 blades is many lines that nobody reads.",
    )
    rsync_port: Port = Field(
        8730,
        description="TCP port of the rsync server. Not 873, which a system-wide rsyncd may hold.",
    )
    rsync_connections: Count = Field(
        64,
        ge=1,
        description="Blades that may sync at once; further ones are told to come back.",
    )

    @property
    def address(self) -> str:
        """`host` as it stands in a URL: an IPv6 address is in brackets (RFC 3986, 3.2.2)."""
        return f"[{self.host}]" if ":" in self.host else self.host
