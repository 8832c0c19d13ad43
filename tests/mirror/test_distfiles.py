"""Fetching distfiles, from real HTTP servers that serve well, badly, or not at all."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from config.model import Distfiles
from headnode.errors import BusyError, MirrorError
from headnode.files import locked
from mirror.distfiles import DistfilesError, Progress, Report, Wanted, fetch
from mirror.download import AddressError, get_small
from mirror.layout import LAYOUT_CONF, path_of

CONTENT = bytes(range(256)) * 800
NAME = "hello-1.tar.gz"
PLACE = f"/distfiles/{path_of(NAME)}"
REMEDY = (
    " Try again later, name another mirror in cluster.toml ([mirror.distfiles] upstreams), "
    "or sync the tree if the files changed upstream."
)

Site = Any
Answer = Callable[[Any], None]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def wants(content: bytes = CONTENT, name: str = NAME, **others: Any) -> Wanted:
    return Wanted(
        filename=name,
        size_bytes=len(content),
        digests={
            "BLAKE2B": hashlib.blake2b(content).hexdigest(),
            "SHA512": hashlib.sha512(content).hexdigest(),
        },
        **{"uris": (), "by": ("app-misc/hello-1",), **others},
    )


def get(state: Path, *wanted: Wanted, mirrors: tuple[str, ...] = (), **others: Any) -> Report:
    keys = ("parallel", "timeout_s", "tries")
    options = {key: others.pop(key) for key in keys if key in others}
    return fetch(
        state,
        wanted,
        Distfiles(upstreams=mirrors, **options),
        **{"sleep": lambda seconds: None, "chance": lambda: 0.5, **others},
    )


def place(state: Path, name: str = NAME) -> Path:
    return state / "mirror/distfiles" / path_of(name)


def partial(state: Path, name: str = NAME) -> Path:
    path = state / "mirror/distfiles/.partial" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def failure(state: Path, wanted: Wanted, **others: Any) -> DistfilesError:
    with pytest.raises(DistfilesError) as caught:
        get(state, wanted, **others)
    assert not place(state).exists()
    return caught.value


def test_a_file_comes_from_a_mirror_by_its_layout(state: Path, site: Site) -> None:
    site.answers = {
        "/gentoo/distfiles/layout.conf": site.serves(LAYOUT_CONF.encode()),
        f"/gentoo{PLACE}": site.serves(CONTENT),
    }
    report = get(state, wants(), mirrors=(f"{site.url}/gentoo/",))
    assert report == Report(fetched=(NAME,))
    assert place(state).read_bytes() == CONTENT
    assert place(state).stat().st_mode & 0o777 == 0o644
    assert (state / "mirror/distfiles/layout.conf").read_text() == LAYOUT_CONF
    left = partial(state).parent.rglob("*")
    assert [each.name for each in left if each.is_file()] == [".lock"]


def test_a_layout_that_comes_in_pieces_is_read_whole(state: Path, site: Site) -> None:
    first, rest = LAYOUT_CONF[:12].encode(), LAYOUT_CONF[12:].encode()

    def in_pieces(handler: Any) -> None:
        handler.head(200, Content_Length=len(LAYOUT_CONF))
        for piece in (first, rest):
            handler.wfile.write(piece)
            handler.wfile.flush()
            time.sleep(0.2)

    site.answers = {
        "/distfiles/layout.conf": in_pieces,
        PLACE: site.serves(CONTENT),
    }
    assert get_small(f"{site.url}/distfiles/layout.conf", timeout_s=5) == LAYOUT_CONF.encode()
    assert get(state, wants(), mirrors=(site.url,)).fetched == (NAME,)


def test_a_small_file_that_is_cut_off_or_too_large_is_refused(site: Site) -> None:
    def cut_off(handler: Any) -> None:
        handler.head(200, Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:7])

    site.answers = {"/cut": cut_off, "/large": site.serves(CONTENT)}
    for name, why in (
        ("cut", f"cut off after 7 of {len(CONTENT)} bytes"),
        ("large", f"it has more than {len(CONTENT) - 1} bytes"),
    ):
        with pytest.raises(AddressError) as caught:
            get_small(f"{site.url}/{name}", timeout_s=5, limit_bytes=len(CONTENT) - 1)
        assert caught.value.why == why


def test_a_mirror_without_layout_conf_is_flat(state: Path, site: Site) -> None:
    site.answers = {f"/distfiles/{NAME}": site.serves(CONTENT)}
    assert get(state, wants(), mirrors=(site.url,)).fetched == (NAME,)


def test_a_page_in_place_of_layout_conf_counts_as_none(state: Path, site: Site) -> None:
    site.answers = {
        "/distfiles/layout.conf": site.serves(b"<html>no [structure] here</html>"),
        f"/distfiles/{NAME}": site.serves(CONTENT),
    }
    assert get(state, wants(), mirrors=(site.url,)).fetched == (NAME,)


def test_the_ebuilds_own_address_is_used_when_no_mirror_has_it(state: Path, site: Site) -> None:
    site.answers = {"/upstream/hello.tgz": site.serves(CONTENT)}
    wanted = wants(uris=(f"{site.url}/upstream/hello.tgz",))
    assert get(state, wanted, mirrors=(site.url,)).fetched == (NAME,)


def test_mirrors_are_not_asked_for_what_must_not_be_mirrored(state: Path, site: Site) -> None:
    site.answers = {"/own": site.serves(CONTENT)}
    get(state, wants(uris=(f"{site.url}/own",), mirrored=False), mirrors=(site.url,))
    assert site.asked == [("/own", "")]


def test_a_file_that_is_there_is_not_asked_for(state: Path, site: Site) -> None:
    site.answers = {"/own": site.serves(CONTENT)}
    wanted = wants(uris=(f"{site.url}/own",))
    get(state, wanted)
    assert get(state, wanted) == Report(present=(NAME,))
    assert len(site.asked) == 1


def test_a_file_of_the_wrong_size_is_replaced(state: Path, site: Site) -> None:
    site.answers = {"/own": site.serves(CONTENT)}
    place(state).parent.mkdir(parents=True)
    place(state).write_bytes(b"half")
    assert get(state, wants(uris=(f"{site.url}/own",))).fetched == (NAME,)
    assert place(state).read_bytes() == CONTENT


def test_wrong_content_is_refused_and_never_visible(state: Path, site: Site) -> None:
    evil = bytes(len(CONTENT))
    site.answers = {"/own": site.serves(evil)}
    address = f"{site.url}/own"
    error = failure(state, wants(uris=(address,)))
    got, expected = (hashlib.blake2b(each).hexdigest()[:16] for each in (evil, CONTENT))
    why = f"wrong content: its BLAKE2B is {got}…, the Manifest says {expected}…"
    assert error.report.failed == {NAME: ((address, why),)}
    assert str(error) == (
        f"1 distfile could not be fetched.\n  {NAME}\n    {address}: {why}\n{REMEDY}"
    )
    assert not partial(state).exists()


def test_a_page_served_as_200_is_refused_by_its_size(state: Path, site: Site) -> None:
    site.answers = {"/own": site.serves(b"<html>404 Not Found</html>")}
    error = failure(state, wants(uris=(f"{site.url}/own",)))
    [(_, why)] = error.report.failed[NAME]
    assert why == f"it has 26 bytes and should have {len(CONTENT)}"


def test_a_body_without_end_is_cut_at_the_size(state: Path, site: Site) -> None:
    sent = 0

    def endless(handler: Any) -> None:
        nonlocal sent
        handler.head(200)
        while True:
            sent += handler.wfile.write(CONTENT)

    site.answers = {"/own": endless}
    error = failure(state, wants(uris=(f"{site.url}/own",)))
    [(_, why)] = error.report.failed[NAME]
    assert why == f"it goes on after the {len(CONTENT)} bytes it should have"
    assert not partial(state).exists()
    assert sent < 50 << 20


def test_a_file_that_is_cut_off_is_resumed_where_it_stopped(state: Path, site: Site) -> None:
    def cut_off(handler: Any) -> None:
        handler.head(200, Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:1000])
        handler.server.answers["/own"] = site.serves(CONTENT)

    site.answers = {"/own": cut_off}
    assert get(state, wants(uris=(f"{site.url}/own",))).fetched == (NAME,)
    assert site.asked == [("/own", ""), ("/own", "bytes=1000-")]
    assert place(state).read_bytes() == CONTENT


def test_a_file_that_is_always_cut_off_is_given_up_and_kept_for_the_next_run(
    state: Path, site: Site
) -> None:
    def cut_off(handler: Any) -> None:
        handler.head(200, Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:1000])

    site.answers = {"/own": cut_off}
    error = failure(state, wants(uris=(f"{site.url}/own",)), tries=2)
    [(_, why)] = error.report.failed[NAME]
    assert why == f"cut off after 1000 of {len(CONTENT)} bytes"
    assert partial(state).read_bytes() == CONTENT[:1000]


def test_what_a_killed_run_left_is_resumed(state: Path, site: Site) -> None:
    partial(state).write_bytes(CONTENT[:5000])
    site.answers = {"/own": site.serves(CONTENT)}
    get(state, wants(uris=(f"{site.url}/own",)))
    assert site.asked == [("/own", "bytes=5000-")]
    assert place(state).read_bytes() == CONTENT


def test_a_server_that_cannot_resume_sends_it_all(state: Path, site: Site) -> None:
    partial(state).write_bytes(b"x" * 5000)
    site.answers = {"/own": site.serves(CONTENT, ranges=False)}
    get(state, wants(uris=(f"{site.url}/own",)))
    assert place(state).read_bytes() == CONTENT


@pytest.mark.parametrize("length", [5000, len(CONTENT), len(CONTENT) + 1])
def test_a_spoilt_partial_file_is_dropped_and_fetched_from_zero(
    state: Path, site: Site, length: int
) -> None:
    partial(state).write_bytes(b"x" * length)
    site.answers = {"/own": site.serves(CONTENT)}
    get(state, wants(uris=(f"{site.url}/own",)), tries=1)
    assert place(state).read_bytes() == CONTENT
    assert site.asked[-1] == ("/own", "")


def test_a_404_does_not_cost_what_was_there_already(state: Path, site: Site) -> None:
    partial(state).write_bytes(CONTENT[:5000])
    site.answers = {"/own": site.serves(CONTENT)}
    get(state, wants(uris=(f"{site.url}/gone", f"{site.url}/own")))
    assert site.asked == [("/gone", "bytes=5000-"), ("/own", "bytes=5000-")]


def test_a_passing_failure_is_tried_again_with_growing_pauses(state: Path, site: Site) -> None:
    site.answers = {"/own": site.status(503)}
    pauses: list[float] = []
    error = failure(state, wants(uris=(f"{site.url}/own",)), tries=4, sleep=pauses.append)
    assert error.report.failed[NAME] == ((f"{site.url}/own", "HTTP 503 Service Unavailable"),)
    assert pauses == [1.0, 2.0, 4.0]
    assert len(site.asked) == 4


def test_a_final_failure_is_not_tried_again(state: Path, site: Site) -> None:
    error = failure(state, wants(uris=(f"{site.url}/gone",)), tries=4)
    assert error.report.failed[NAME] == ((f"{site.url}/gone", "HTTP 404 Not Found"),)
    assert len(site.asked) == 1


def test_a_redirect_is_followed_but_not_for_ever_and_not_to_other_schemes(
    state: Path, site: Site
) -> None:
    def to(address: str) -> Answer:
        return lambda handler: handler.head(302, Location=address, Content_Length=0)

    site.answers = {
        "/good": to("/own"),
        "/own": site.serves(CONTENT),
        "/loop": to("/loop"),
        "/file": to("file:///etc/passwd"),
        "/ftp": to("ftp://127.0.0.1/hello"),
    }
    uris = tuple(f"{site.url}/{each}" for each in ("loop", "file", "ftp"))
    reasons = dict(failure(state, wants(uris=uris), tries=1).report.failed[NAME])
    assert reasons[uris[0]] == "HTTP 302 redirects without end"
    assert reasons[uris[1]].startswith("HTTP 302 Found - Redirection to url 'file:")
    assert reasons[uris[2]] == "unknown url type: ftp"
    assert get(state, wants(uris=(f"{site.url}/good",))).fetched == (NAME,)


def test_other_schemes_and_broken_addresses_are_refused(state: Path) -> None:
    uris = ("ftp://127.0.0.1/hello", "file:///etc/passwd", "http://[broken/hello")
    error = failure(state, wants(uris=uris))
    reasons = [why for _, why in error.report.failed[NAME]]
    assert reasons[:2] == [
        "ftp: is not fetched, only http and https",
        "file: is not fetched, only http and https",
    ]
    assert reasons[2].startswith("not an address: ")


def test_a_server_that_is_down_or_silent_is_told_with_its_address(
    state: Path, closed_port: str, silent_server: str
) -> None:
    wanted = wants(uris=(f"http://{silent_server}/hello",))
    started = time.monotonic()
    error = failure(state, wanted, mirrors=(f"http://{closed_port}",), tries=1, timeout_s=0.5)
    assert time.monotonic() - started < 5
    assert error.report.failed[NAME] == (
        (
            f"http://{closed_port}",
            "its layout.conf could not be had: [Errno 111] Connection refused",
        ),
        (f"http://{silent_server}/hello", "timed out"),
    )


def test_good_files_stay_when_another_fails(state: Path, site: Site) -> None:
    site.answers = {"/own": site.serves(CONTENT)}
    good, bad = wants(uris=(f"{site.url}/own",)), wants(name="bad.tar.gz")
    with pytest.raises(DistfilesError) as caught:
        get(state, good, bad)
    assert caught.value.report == Report(fetched=(NAME,), failed={"bad.tar.gz": ()})
    assert str(caught.value) == (
        "1 distfile could not be fetched.\n  bad.tar.gz: no address is known for it\n" + REMEDY
    )
    assert place(state).read_bytes() == CONTENT


def test_a_file_for_the_hand_is_reported_until_it_is_there(state: Path) -> None:
    wanted = wants(by_hand=True)
    assert get(state, wanted) == Report(by_hand=(NAME,))
    place(state).parent.mkdir(parents=True)
    place(state).write_bytes(CONTENT)
    assert get(state, wanted) == Report(present=(NAME,))


def test_several_are_fetched_at_once_and_progress_ends_complete(state: Path, site: Site) -> None:
    together = threading.Barrier(4)

    def waits(handler: Any) -> None:
        together.wait(10)
        site.serves(CONTENT)(handler)

    site.answers = {f"/{number}": waits for number in range(8)}
    files = [wants(name=f"{each}.tar", uris=(f"{site.url}/{each}",)) for each in range(8)]
    seen: list[Progress] = []
    assert len(get(state, *files, parallel=4, on_progress=seen.append).fetched) == 8
    total = 8 * len(CONTENT)
    assert seen[-1] == Progress(files=8, files_total=8, size_bytes=total, size_bytes_total=total)
    assert [each.size_bytes for each in seen] == sorted(each.size_bytes for each in seen)


def test_two_fetches_at_once_are_refused(state: Path) -> None:
    held = locked(partial(state, ".lock"), "a fetch of distfiles")
    with held, pytest.raises(BusyError):
        get(state, wants())


def test_a_full_disk_is_one_clear_error_and_the_next_run_carries_on(
    small_disk: Path, site: Site
) -> None:
    large = os.urandom(3 << 20)
    site.answers = {"/small": site.serves(CONTENT), "/large": site.serves(large)}
    small = wants(uris=(f"{site.url}/small",))
    get(small_disk, small)
    with pytest.raises(MirrorError) as caught:
        get(small_disk, small, wants(large, "large.tar", uris=(f"{site.url}/large",)))
    assert str(caught.value) == (
        f"{small_disk}/mirror/distfiles cannot be written to: its disk is full. "
        "What was served before still is. "
        "Free some space, then run this again: it carries on where it stopped."
    )
    assert place(small_disk).read_bytes() == CONTENT
    assert not place(small_disk, "large.tar").exists()
