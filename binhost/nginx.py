"""An nginx configuration that serves what our own server does: the same URLs, types and ages.

What nginx has to be told, since its defaults fail Portage: `if_modified_since before` (an equal
time only, its default, never gets Portage a 304), and no compression of what is compressed. Only
files of the contract's table are served, by their names; no symlink is followed but a ring's
`current`, and that only if it has its target's owner. Pure.

Needs nginx's module gzip_static (Debian has it; on Gentoo NGINX_MODULES_HTTP="gzip_static").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from binhost.replies import PAGES
from binhost.routes import IMMUTABLE, NOT_RINGS, OCTETS, REVALIDATE, RING_FILES, TYPES
from binhost.site import Limits

NAME = "[^/]+"  # hidden ones are refused before
RING = f"(?!(?:{'|'.join(sorted(NOT_RINGS))})/){NAME}"
TLS_PORT = 443
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """What nginx is set up for.

    `listen` and `port` are where it listens; `backend_port` where our own server answers on
    127.0.0.1 what is no file (0: nobody does). `privileged`: it is started by root, and so may use
    the folders that it was built for. `tls` are a certificate (with its chain) and its key, for
    TLS_PORT besides.
    """

    state: Path
    listen: str
    port: int
    backend_port: int
    access_log: Path | None
    privileged: bool
    tls: tuple[Path, Path] | None = None


def render(front: Front, limits: Limits) -> str:
    """The whole configuration, for `nginx -c`."""
    return "\n".join(["# Made by `headnode serve --nginx`.", *_main(front, limits), ""])


def _main(front: Front, limits: Limits) -> Iterator[str]:
    state = front.state
    yield "worker_processes auto;"
    yield f"pid {quoted(state / 'nginx.pid')};"
    yield f"error_log {quoted(state / 'nginx-error.log')};"
    yield from _block("events", [f"worker_connections {limits.connections};"])
    yield from _block("http", _http(front, limits))


def _http(front: Front, limits: Limits) -> Iterator[str]:
    log = f"{quoted(front.access_log)} combined" if front.access_log else "off"
    yield f"access_log {log};"
    if not front.privileged:
        for name in TEMPORARY:
            yield f"{name}_temp_path {quoted(front.state / f'nginx-{name}')};"
    yield from ("sendfile on;", "tcp_nopush on;", "server_tokens off;", "gzip off;")
    yield f"client_header_timeout {limits.read_s:g}s;"
    yield f"keepalive_timeout {limits.read_s:g}s;"
    yield f"send_timeout {limits.send_s:g}s;"
    types = [f"{kind.partition(';')[0]} {suffix[1:]};" for suffix, kind in sorted(TYPES.items())]
    yield from _block("types", types)
    yield f"default_type {OCTETS};"
    yield "charset utf-8;  # of text/plain"
    yield from _block("server", _server(front))


def _server(front: Front) -> Iterator[str]:
    address = f"[{front.listen}]" if ":" in front.listen else front.listen
    both = " ipv6only=off" if front.listen == "::" else ""
    yield f"listen {address}:{front.port} backlog=4096{both};"
    if front.tls:
        certificate, key = front.tls
        yield f"listen {address}:{TLS_PORT} ssl{both};"
        yield f"ssl_certificate {quoted(certificate)};"
        yield f"ssl_certificate_key {quoted(key)};"
    yield "if_modified_since before;"
    yield f"disable_symlinks on from={quoted(front.state)};"
    yield from _block(r'location ~ "/\."', ["return 404;"])
    for location in _files(front.state, "@headnode" if front.backend_port else "=404"):
        yield from location
    if front.backend_port:
        yield from _block("location /", ["try_files /nothing @headnode;"])
        yield from _block("location @headnode", _proxy(front))
        return
    for path, text in PAGES.items():
        said = text.replace("\n", r"\n")
        yield from _block(
            f"location = {path}", ["default_type text/plain;", f'return 200 "{said}";']
        )
    yield from _block("location /", ["return 404;"])


def _files(state: Path, missing: str) -> Iterator[list[str]]:
    """The locations of files; `missing` is what a distfile that is not there is tried with."""
    immutable, fresh = (f'add_header Cache-Control "{age}";' for age in (IMMUTABLE, REVALIDATE))
    pool = [f"root {quoted(state)};", immutable, "try_files $uri =404;"]
    yield _block(f'location ~ "^/binhost/{NAME}/pool/."', pool)
    ring, numbered = (
        f"^/binhost/(?<class>{NAME})/(?<ring>{RING})/",
        "deployments/(?<number>[0-9]+)/",
    )
    folder = f"{state}/binhost/$class/rings/$ring"
    linked = [
        f"root {quoted(f'{folder}/current')};",
        f"disable_symlinks if_not_owner from={quoted(state)};",
        fresh,
    ]
    inside = [f"root {quoted(f'{folder}/deployments/$number')};"]
    for place, lines in ((ring, linked), (ring + numbered, inside)):
        # A client that takes gzip gets Packages.gz under the name Packages, and is told so.
        packed = ["types { }", "default_type text/plain;", "gzip_static on;", "gzip_vary on;"]
        yield _block(
            f'location ~ "{place}Packages$"', [*lines, *packed, "try_files /Packages =404;"]
        )
        names = NAME if place != ring else "|".join(sorted(RING_FILES)).replace(".", r"\.")
        lines = [*lines, "try_files /$name =404;"]
        yield _block(f'location ~ "{place}(?<name>{names})$"', lines)
    mirror = f"root {quoted(state / 'mirror')};"
    yield _block('location ~ "^/distfiles/."', [mirror, f"try_files $uri {missing};"])
    image = [mirror, immutable, "try_files $uri =404;"]
    yield _block(r'location ~ "^/images/[0-9a-f]{64}\.squashfs$"', image)


def _proxy(front: Front) -> Iterator[str]:
    yield f"proxy_pass http://127.0.0.1:{front.backend_port};"
    yield from ("proxy_http_version 1.1;", 'proxy_set_header Connection "";')
    yield from (
        "proxy_set_header Host $http_host;",
        "proxy_set_header X-Forwarded-For $remote_addr;",
    )
    yield "proxy_read_timeout 3600s;  # a distfile that is fetched first"


def _block(head: str, lines: list[str] | Iterator[str]) -> list[str]:
    return [f"{head} {{", *(f"\t{line}" for line in lines), "}"]


def quoted(value: object) -> str:
    """A value as nginx reads it back; variables in it count."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
