"""The shell script that becomes a node's first process. Pure.

It is the one place where headnode writes one, and every word in it is quoted.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from headnode.node.spec import Bind, Life, NodeSpec

DEVICES = ("full", "null", "random", "tty", "urandom", "zero")


def _words(*words: object) -> str:
    return shlex.join(str(word) for word in words)


def _overlay_script(spec: NodeSpec, lower: Path) -> list[str]:
    options = ",".join(
        [
            f"lowerdir={':'.join(str(layer) for layer in (*spec.beneath, lower))}",
            f"upperdir={spec.upper}",
            f"workdir={spec.store / 'work'}",
            # What lets the lower change between two mounts (overlayfs.rst, "Changes to underlying
            # filesystems"): a kernel may have them on by default.
            "redirect_dir=off,metacopy=off,index=off",
            *(["volatile"] if spec.throwaway else []),
        ]
    )
    return [
        _words("mount", "-t", "overlay", "-o", options, "overlay", spec.store / "root"),
        _words("cd", spec.store / "root"),
        "mkdir -p dev proc sys run tmp",
        "mount -t proc proc proc",
        "mount -t sysfs -o ro sysfs sys",
        "mount -t tmpfs -o mode=755 tmpfs dev",
        *(f": > dev/{name}; mount --bind /dev/{name} dev/{name}" for name in DEVICES),
        "mkdir dev/pts dev/shm",
        "mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts",
        "mount -t tmpfs -o mode=1777 tmpfs dev/shm",
        "ln -s pts/ptmx dev/ptmx",
        "ln -s /proc/self/fd dev/fd",
        "for n in 0 1 2; do set -- stdin stdout stderr; shift $n; "
        "ln -s /proc/self/fd/$n dev/$1; done",
        "mount -t tmpfs -o mode=755 tmpfs run",
        "mount -t tmpfs -o mode=1777 tmpfs tmp",
    ]


def _bind_script(bind: Bind, root: str) -> list[str]:
    at = f"{root}{bind.target}"
    if bind.source.is_dir():
        lines = [_words("mkdir", "-p", at)]
    else:
        quoted = shlex.quote(at)
        lines = [
            _words("mkdir", "-p", f"{root}{bind.target.parent}"),
            f"[ -e {quoted} ] || : > {quoted}",
        ]
    lines.append(_words("mount", "--bind", bind.source, at))
    if not bind.writable:
        lines.append(_words("mount", "-o", "remount,bind,ro", at))
    return lines


def _hide_script(folder: Path, root: str) -> list[str]:
    at = f"{root}{folder}"
    mount = _words("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", at)
    return [f"[ ! -d {shlex.quote(at)} ] || {mount}"]


def _cover_script(spec: NodeSpec, root: str) -> list[str]:
    """What is bound and hidden, the outer before the inner, so that none covers another up."""
    covers = [(bind.target.parts, 0, _bind_script(bind, root)) for bind in spec.binds]
    covers += [(folder.parts, 1, _hide_script(folder, root)) for folder in spec.hidden]
    covers.sort(key=lambda cover: (len(cover[0]), cover[1]))
    return [line for _, _, lines in covers for line in lines]


def setup_script(spec: NodeSpec, life: Life) -> str:
    """The shell script that becomes the node's first process. Pure.

    Its first line of output is its own process number as the machine sees it.
    """
    # Commands of one line each: `set -e` does not see one fail that has && after it, and a node
    # whose pivot_root failed would go on in the machine's own root.
    lines = ["set -eu", "read -r pid rest < /proc/self/stat"]
    own = [
        f"echo {shlex.quote(spec.name)} > /proc/sys/kernel/hostname",
        "ip link set lo up",
    ]
    if spec.lower is None:
        lines += ["mount -t proc proc /proc", *_cover_script(spec, ""), *own]
    else:
        root = str(spec.store / "root")
        lines += [
            *_overlay_script(spec, spec.lower),
            *_cover_script(spec, root),
            *own,
            "mkdir -p .old",
            "pivot_root . .old",
            "umount -l .old",
            "rmdir .old",
        ]
    stay = "cat <&3" if life is Life.WITH_STARTER else "sleep infinity"
    lines += [
        "cd /",
        'echo "$pid"',
        "exec 3<&0 > /dev/null",
        f"{stay} &",
        "wait",  # for any child: the shell reaps what the node orphans, too
    ]
    return "\n".join(lines)
