"""Trees by image against trees by rsync, and our sync against bare rsync. `make bench-tree`.

A made-up tree (`forest`) of 10,000 and 100,000 files, a real rsyncd as we render it, our own HTTP
server, both on loopback; a real squashfs mount. The two sides take turns, and the median counts.

*The blade's two sides.* rsync: what `emerge --sync` runs (Portage's own options), into an empty
folder, and then after a day's change. Image: blades/tree.py's fetch (with its digest and fsync) and
mount. Bytes: for rsync what `--stats` says was received and sent, for HTTP the body's length. The
image is made once for all blades: its seconds are given apart (`make_s`). A day changes 1 % of the
packages, one mask and one GLSA.

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
import socket
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
from blades import image as blade_image
from blades import tree as blade
from config.model import Repo
from mirror import rsync, rsyncd
from mirror.contents import Kind
from mirror.image import ensure_image
from mirror.sets import write_set
from mirror.tree import Folder, sync_repo

sys.path.append(str(Path(__file__).parent))  # at the end: http.py there is not Python's
from forest import Forest

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


def image_tree(url: str, sha256: str, size_bytes: int, folder: Path) -> int:
    """Fetch and mount as a blade does; the bytes of the body."""
    image = blade_image.fetch(blade_image.Image(url, sha256, size_bytes), folder)
    (folder / "mounted").mkdir()
    blade.mount(image, folder / "mounted")
    return size_bytes


@contextmanager
def served(folder: Path, **modules: Path) -> Iterator[str]:
    """A real rsyncd of `modules`; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
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


def deliver(work: Path, state: Path, url: str, stamps: list[str], repeat: int) -> dict[str, Any]:
    """Both sides for the first and the second snapshot; medians of seconds, and bytes."""
    current = work / "current"
    found: dict[str, Any] = {}
    images = {}
    for kind in Kind:
        for name, stamp in zip(("first", "day"), stamps, strict=True):
            identity = write_set(state, {"gentoo": stamp})
            started = time.monotonic()
            images[kind, name] = ensure_image(state, identity, kind)
            found[f"{kind}_{name}_make_s"] = round(time.monotonic() - started, 3)
    seen: dict[str, list[tuple[float, int]]] = {}
    with serve("127.0.0.1", 0, state) as server:
        for _ in range(repeat):
            copy = work / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            for name, stamp in zip(("first", "day"), stamps, strict=True):
                current.unlink(missing_ok=True)
                current.symlink_to(Folder.of(state, "gentoo").snapshots / stamp)
                run = timed(partial(rsync_tree, f"{url}/tree", copy))
                seen.setdefault(f"rsync_{name}", []).append(run)
                for kind in Kind:
                    image = images[kind, name]
                    address = f"{server.url}/images/{image.sha256}.squashfs"
                    with tempfile.TemporaryDirectory(dir=work) as folder:
                        fetch = partial(image_tree, address, image.sha256, image.size_bytes)
                        run = timed(partial(fetch, Path(folder)))
                        seen.setdefault(f"{kind}_{name}", []).append(run)
                        subprocess.run(["umount", f"{folder}/mounted"], check=True)
    for name, runs in seen.items():
        found[f"{name}_s"] = round(median(seconds for seconds, _ in runs), 3)
        found[f"{name}_bytes"] = median(size for _, size in runs)
    return found


def noop(work: Path, state: Path, url: str, forest: Forest, repeat: int) -> dict[str, float]:
    """Our sync against bare rsync, upstream stamped anew before each."""
    repo = Repo(upstreams=(f"{url}/upstream",))
    ours, bare = [], []
    for _ in range(repeat):
        forest.stamp()
        options = rsync.build_argv(f"{url}/upstream", work / "bare", stall_s=120)
        argv = ["rsync", *options]
        started = time.monotonic()
        subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
        bare.append(time.monotonic() - started)
        started = time.monotonic()
        sync_repo(state, "gentoo", repo, now=datetime.now(UTC))
        ours.append(time.monotonic() - started)
    return {"noop_ours_s": round(median(ours), 3), "noop_bare_s": round(median(bare), 3)}


def measure(files: int, repeat: int) -> dict[str, Any]:
    """Everything, for a tree of about `files` files."""
    with tempfile.TemporaryDirectory(prefix="bench-tree-", dir="/var/tmp") as name:
        work = Path(name)
        work.chmod(0o755)
        state = work / "state"
        forest = Forest(work / "upstream", files)
        forest.plant()
        with served(work, upstream=forest.root, tree=work / "current") as url:
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
