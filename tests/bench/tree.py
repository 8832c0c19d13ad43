"""Trees by image against trees by rsync, and our sync against bare rsync. `make bench-tree`.

A made-up tree (`forest`) of 10,000 and 100,000 files, a real rsyncd as we render it, our own HTTP
server, both on loopback; a real squashfs mount. The two sides take turns, and the median counts.

*The blade's two sides.* rsync: what `emerge --sync` runs (Portage's own options), into an empty
folder, and then after a day's change. Image: what headnode-tree does, fetch (with its digest and
fsync) and mount; the first whole by HTTP, the next by rsync against the first. Bytes: for rsync
what was received and sent (`--stats`; for an image the daemon's log), for HTTP the body's length.
The image is made once for all blades: its seconds are given apart (`make_s`). A day changes 1 % of
the packages, one mask and one GLSA; `day_whole_bytes` is what an image without rsync comes to.

*noop_ratio*: mirror.tree.sync_repo over rsync with the same options into the same tree; upstream
has only stamped itself anew.

Keys: ratios are image over rsync, of the `profiles` image and the largest tree; `by_files` has each
size and kind. A ratio below 1 is a gain.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from binhost.server import serve
from blades import tree as blade
from blades.image import Image, fetch
from config.model import Repo
from mirror import rsync, rsyncd
from mirror.contents import Kind
from mirror.image import Image as Made
from mirror.image import ensure_image, folder_of
from mirror.sets import write_set
from mirror.tree import Folder, sync_repo

sys.path.append(str(Path(__file__).parent))  # at the end: http.py there is not Python's
from forest import Forest

from tests.ports import free_port

# portage.sync.modules.rsync 3.0.83, _set_rsync_defaults.
PORTAGE = "--recursive --links --safe-links --perms --times --omit-dir-times --compress --force"
PORTAGE += " --whole-file --delete --stats --human-readable --timeout=180"
PORTAGE += " --exclude=/distfiles --exclude=/local --exclude=/packages --exclude=/.git"


def timed(work: Callable[[], int]) -> tuple[float, int]:
    started = time.monotonic()
    size_bytes = work()
    return time.monotonic() - started, size_bytes


def rsync_tree(url: str, target: Path) -> int:
    """Sync as Portage does; the bytes that went over the wire, both ways."""
    options = PORTAGE.replace("--human-readable", "--no-human-readable").split()
    argv = ["rsync", *options, f"{url}/", f"{target}/"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    said = re.findall(r"Total bytes (?:sent|received): ([\d,]+)", done.stdout)
    return sum(int(number.replace(",", "")) for number in said)


def image_tree(wanted: Image, folder: Path, old: Path | None, log: Path) -> int:
    """Fetch and mount as a blade does; the bytes that went over the wire."""
    before = log.stat().st_size
    image = fetch(wanted, folder, old)
    mounted = folder / f"{wanted.sha256}.mounted"
    mounted.mkdir()
    blade.mount(image, mounted)
    return delta_bytes(log, before) if old else wanted.size_bytes


def delta_bytes(log: Path, before: int) -> int:
    """What the daemon's log says of its last transfer, once it says it."""
    for _ in range(1000):
        said = re.findall(r"sent (\d+) bytes  received (\d+) bytes", log.read_text()[before:])
        if said:
            return int(said[-1][0]) + int(said[-1][1])
        time.sleep(0.01)
    raise RuntimeError("the image did not come by rsync")


def unmount(folder: Path) -> None:
    """Take away what `image_tree` mounted below a folder."""
    for path in folder.glob("*.mounted"):
        subprocess.run(["umount", path], check=True)


@contextmanager
def served(folder: Path, **modules: Path) -> Iterator[str]:
    """A real rsyncd of `modules`; its address."""
    port = free_port()
    conf = folder / "rsyncd.conf"
    known = [rsyncd.Module(name=name, path=path, comment=name) for name, path in modules.items()]
    paths = {f"{name}_file": folder / f"rsyncd.{name}" for name in ("log", "pid", "lock")}
    text = rsyncd.render(
        known, listen="127.0.0.1", port=port, max_connections=9, chroot=True, **paths
    )
    conf.write_text(text)
    with subprocess.Popen(rsyncd.argv(conf)) as process:
        while subprocess.run(
            ["rsync", f"rsync://127.0.0.1:{port}/"], capture_output=True
        ).returncode:
            time.sleep(0.05)
        yield f"rsync://127.0.0.1:{port}"
        process.terminate()


DAYS = ("first", "day")
Seen = dict[str, list[tuple[float, int]]]


def make_images(state: Path, stamps: list[str], found: dict[str, Any]) -> dict[str, Made]:
    """Both images of each kind, by `<kind>_<day>`; their seconds into `found`."""
    made = {}
    for kind in Kind:
        for name, stamp in zip(DAYS, stamps, strict=True):
            identity = write_set(state, {"gentoo": stamp})
            started = time.monotonic()
            made[f"{kind}_{name}"] = ensure_image(state, identity, kind)
            found[f"{kind}_{name}_make_s"] = round(time.monotonic() - started, 3)
    return made


def rsync_side(work: Path, state: Path, url: str, stamps: list[str], seen: Seen) -> None:
    """A first sync and the next day's, by rsync."""
    copy, current = work / "copy", work / "current"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for name, stamp in zip(DAYS, stamps, strict=True):
        current.unlink(missing_ok=True)
        current.symlink_to(Folder.of(state, "gentoo").snapshots / stamp)
        run = timed(partial(rsync_tree, f"{url}/tree", copy))
        seen.setdefault(f"rsync_{name}", []).append(run)


def image_side(work: Path, http: str, url: str, images: dict[str, Made], seen: Seen) -> None:
    """A first fetch and the next day's, by image, of each kind."""
    for kind in Kind:
        with tempfile.TemporaryDirectory(dir=work) as name:
            folder, old = Path(name), None
            for day in DAYS:
                made = images[f"{kind}_{day}"]
                file = f"images/{made.sha256}.squashfs"
                wanted = Image(f"{http}/{file}", made.sha256, made.size_bytes, f"{url}/{file}")
                work_on = partial(image_tree, wanted, folder, old, work / "rsyncd.log")
                seen.setdefault(f"{kind}_{day}", []).append(timed(work_on))
                old = folder / f"{made.sha256}.squashfs"
            unmount(folder)


def deliver(work: Path, state: Path, url: str, stamps: list[str], repeat: int) -> dict[str, Any]:
    """Both sides for the first and the second snapshot, in turns; medians of seconds, and bytes."""
    found: dict[str, Any] = {}
    images = make_images(state, stamps, found)
    seen: Seen = {}
    with serve("127.0.0.1", 0, state) as server:
        sides = [
            partial(rsync_side, work, state, url, stamps, seen),
            partial(image_side, work, server.url, url, images, seen),
        ]
        for number in range(repeat):
            for side in sides if number % 2 == 0 else reversed(sides):
                side()
    for name, runs in seen.items():
        found[f"{name}_s"] = round(median(seconds for seconds, _ in runs), 3)
        found[f"{name}_bytes"] = median(size for _, size in runs)
    found |= {f"{kind}_day_whole_bytes": images[f"{kind}_day"].size_bytes for kind in Kind}
    return found


def noop(work: Path, state: Path, url: str, forest: Forest, repeat: int) -> dict[str, float]:
    """Our sync against bare rsync, upstream stamped anew before each."""
    repo = Repo(upstreams=(f"{url}/upstream",))
    argv = ["rsync", *rsync.build_argv(f"{url}/upstream", work / "bare", stall_s=120)]

    def bare() -> int:
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
        return 0

    def ours() -> int:
        made = sync_repo(state, "gentoo", repo, now=datetime.now(UTC))
        return int(made.changed)

    sides = {"ours": ours, "bare": bare}
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(2 * repeat + 1):
        forest.stamp()
        for name in sorted(sides, reverse=number % 2 == 1):
            seconds, changed = timed(sides[name])
            assert not changed
            seen[name].append(seconds)
    return {f"noop_{name}_s": round(median(each), 3) for name, each in seen.items()}


def measure(files: int, repeat: int) -> dict[str, Any]:
    """Everything, for a tree of about `files` files."""
    with tempfile.TemporaryDirectory(prefix="bench-tree-", dir="/var/tmp") as name:
        work = Path(name)
        work.chmod(0o755)
        state = work / "state"
        forest = Forest(work / "upstream", files)
        forest.plant()
        places = {"upstream": forest.root, "tree": work / "current", "images": folder_of(state)}
        with served(work, **places) as url:
            repo = Repo(upstreams=(f"{url}/upstream",))
            stamps = []
            for _ in range(2):
                now = datetime.now(UTC)
                stamps.append(sync_repo(state, "gentoo", repo, now=now).stamp)
                forest.age_a_day()
            found: dict[str, Any] = {"files": sum(1 for _ in forest.root.rglob("*"))}
            found |= deliver(work, state, url, stamps, repeat)
            sync_repo(state, "gentoo", repo, now=datetime.now(UTC))
            rsync.fetch(f"{url}/upstream", work / "bare", stall_s=120, timeout_s=3600)
            return found | noop(work, state, url, forest, repeat)


def main() -> None:
    """Print the raw figures, and the contract's keys as the last line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    by_files = {}
    for files in args.files:
        by_files[files] = measure(files, args.repeat)
        print(files, json.dumps(by_files[files], indent=1), file=sys.stderr, flush=True)
    at = by_files[max(by_files)]
    version = subprocess.run(["rsync", "--version"], capture_output=True, text=True, check=True)
    squash = subprocess.run(["mksquashfs", "-version"], capture_output=True, text=True)
    result = {
        "noop_ratio": at["noop_ours_s"] / at["noop_bare_s"],
        **{
            f"{ours}_{what}_ratio": at[f"profiles_{name}_{unit}"] / at[f"rsync_{name}_{unit}"]
            for ours, name in (("image", "first"), ("day", "day"))
            for what, unit in (("bytes", "bytes"), ("seconds", "s"))
        },
    }
    print(
        json.dumps(
            {
                **{key: round(value, 4) for key, value in result.items()},
                "by_files": by_files,
                "repeat": args.repeat,
                "rsync": version.stdout.split()[2],
                "mksquashfs": squash.stdout.split()[2],
            }
        )
    )


if __name__ == "__main__":
    main()
