"""How blades reach the headnode: its name, and the ports that it serves on."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator

from headnode.doctor.findings import Finding, good, problem, warning
from headnode.errors import BusyError
from headnode.files import locked
from schedules.site import Site

CONNECT_S = 3.0


def _serves(site: Site) -> bool:
    """Whether `headnode serve` is at work."""
    try:
        with locked(site.state / "serve.lock", "headnode doctor"):
            return False
    except BusyError:
        return True


def ports(site: Site) -> Iterator[Finding]:
    """Whether the ports are free for `headnode serve`, or answered by it."""
    options, serves = site.cluster.serve, _serves(site)
    if not serves:
        yield warning("headnode serve does not run", "start it: blades get nothing meanwhile")
    if options.backend_port:  # http_port is nginx's, whether we serve or not
        yield _answered("nginx", options.listen, options.http_port)
        ours = [("HTTP", "127.0.0.1", options.backend_port, "backend_port")]
    else:
        ours = [("HTTP", options.listen, options.http_port, "http_port")]
    ours.append(("rsync", options.listen, options.rsync_port, "rsync_port"))
    for what, listen, port, option in ours:
        yield _answered(what, listen, port) if serves else _free(what, listen, port, option)


def _answered(what: str, listen: str, port: int) -> Finding:
    host = "127.0.0.1" if ipaddress_of(listen) in ("0.0.0.0", "::") else listen  # noqa: S104
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError as error:
        return problem(f"{what} does not answer on {host}:{port}: {error.strerror or error}")
    return good(f"{what} answers on port {port}")


def ipaddress_of(text: str) -> str:
    """An address as it is usually written; a name stays as it is. Pure."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return text


def _free(what: str, listen: str, port: int, option: str) -> Finding:
    family = socket.AF_INET6 if ":" in listen else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((listen, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                remedy = f"end what holds it (ss -ltnp), or set [serve] {option}"
                return problem(f"port {port} for {what} is taken", remedy)
            return problem(f"{listen}:{port} cannot be listened on: {error.strerror}")
    return good(f"port {port} is free for {what}")


def name(site: Site) -> Iterator[Finding]:
    """Whether the name that blades are given is one, and not this machine's own loopback."""
    host = site.cluster.serve.host
    try:
        found = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, None)})
    except (socket.gaierror, UnicodeError) as error:  # the latter: no name that DNS could have
        yield problem(
            f"{host} has no address: {getattr(error, 'strerror', error)}",
            "set [serve] host to a name or address that blades reach; it is written into theirs",
        )
        return
    if all(ipaddress.ip_address(each.partition("%")[0]).is_loopback for each in found):
        yield problem(
            f"{host} is {', '.join(found)}: blades would ask themselves",
            "set [serve] host to this machine's address in the cluster",
        )
    else:
        yield good(f"{host} is {', '.join(found)}")
