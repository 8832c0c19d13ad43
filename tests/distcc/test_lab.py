"""Real distccd on lab blades, and real emerge that is helped by them. The tests tell one story.

What helpers did is read from the daemons' own logs, never from a build that succeeded.
"""

import io
import json
import shutil
import subprocess
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from config import template
from distcc.state import tasks
from headnode import rehearsal
from headnode.rehearsal import Rehearsal
from mirror.upstream import metadata
from mirror.upstream.assemble import read_assembled
from mirror.upstream.tarballs import place

pytestmark = pytest.mark.lab

COUNT = 8
JOBS = 16  # so that make's -l holds nothing back on a machine that has other things to do
GCC, GXX = "x86_64-linux-gnu-gcc", "x86_64-linux-gnu-g++"  # as Debian's distcc calls them
CHOST_GCC = "x86_64-pc-linux-gnu-gcc"
FILES = 24
TREE = "app-text/tree/tree-2.1.0-1.gpkg.tar"
EBUILD = """EAPI=8
DESCRIPTION="Many small sources"
HOMEPAGE="https://blades.example/"
SRC_URI="mirror://blades/${{PN}}-${{PV}}.tar"
LICENSE="GPL-2+"
SLOT="0"
KEYWORDS="amd64"
src_compile() {{ {compile}; }}
src_install() {{ dobin ${{PN}}; }}
"""
MAKEFILE = """objects := $(patsubst %.c,%.o,$(wildcard *.c))
{name}: $(objects)
	$(CC) -o $@ $^
"""
CUT_OFF = (
    "it answers and takes no job: its distccd does not allow this headnode's address, or not this "
    "compiler"
)


@pytest.fixture(scope="module")
def lab(
    tmp_path_factory: pytest.TempPathFactory, tarballs: Path, start_distccd: Callable[..., None]
) -> Iterator[Rehearsal]:
    """A lab whose 8 blades are all to help; only some of them can."""
    folder = tmp_path_factory.mktemp("lab")
    more = tables(["app-text/tree", "app-misc/apart", "app-misc/spread"])
    with rehearsal.running(folder, COUNT, cache=tarballs, more=more) as up:
        for number in (1, 2, 3, 4, 6, 7):
            start_distccd(up, f"blade{number:02}")
        # Started with everything right, but for a network that the headnode is not in.
        start_distccd(up, "blade08", allow="10.99.0.0/16")
        put(up, "blade03", f"/usr/local/bin/{GCC}", '#!/bin/sh\nexec gcc-11 "$@"\n')
        put(up, "blade04", f"/usr/local/bin/{GCC}", "#!/bin/sh\nsleep 100\n")
        other = '#!/bin/sh\nexec /usr/bin/gcc "$@" -mtune=znver3\n'
        put(up, "blade06", f"/usr/local/bin/{GCC}", other)
        up.lab.node("blade07").run(["rm", f"/usr/lib/distcc/{GCC}"], timeout_s=30)
        # What Portage's network-sandbox does to a build: a network of its own, without the relay.
        add_package(up, "apart", 'unshare --net emake CC="${CC:-gcc}" || die')
        add_package(up, "spread", 'emake CC="${CC:-gcc}" || die')
        metadata.index(up.upstream / "tree", up.upstream / "distfiles")
        metadata.stamp(up.upstream / "tree", time.time())
        up.headnode("mirror", "sync")
        configure(up, tables(["app-text/tree"]))
        yield up


USER, LOG = "distccd", "/var/log/distccd.log"  # Debian's user


def tables(packages: list[str], helpers: str = "blade[01-08]", **distcc: Any) -> dict[str, Any]:
    """cluster.toml's tables for a lab whose blades `helpers` help."""
    rings = {"all": "blade[01-08]"}
    classes = {"blade": {"packages": packages, "profile": rehearsal.PROFILE, "rings": rings}}
    options = {"networks": ["10.77.0.0/16"], "slots": 2, "user": USER, "probe_timeout_s": 8.0}
    return {
        "classes": classes,
        "build": {"jobs": JOBS},
        "distcc": {"helpers": helpers, **options, **distcc},
    }


def configure(lab: Rehearsal, more: dict[str, Any]) -> None:
    """Write cluster.toml anew."""
    values = {**rehearsal.values(lab.lab.folder, COUNT), **more}
    lab.config.write_text(template.render(values))


def put(lab: Rehearsal, blade: str, path: str, script: str) -> None:
    """Write a program on a blade."""
    line = 'printf %s "$2" > "$1"; chmod 755 "$1"'
    lab.lab.node(blade).run(["sh", "-c", line, "put", path, script], timeout_s=30)


def until(claim: Any, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not claim() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(claim())


def compiled(lab: Rehearsal, blade: str) -> Counter[str]:
    """What a blade's distccd says that it has compiled: sources by name."""
    path = Path(lab.lab.folder, "nodes", blade, "upper", LOG.lstrip("/"))
    lines = [line for line in path.read_text().splitlines() if " COMPILE_OK " in line]
    return Counter(line.rpartition("/")[2].rpartition(" ")[2] for line in lines)


def record(lab: Rehearsal) -> dict[str, Any]:
    """What the last build's record says of its helpers."""
    path = lab.lab.folder / "state/build/blade/result.json"
    return dict(json.loads(path.read_text())["distributed"])


def add_package(lab: Rehearsal, name: str, compile_line: str) -> None:
    """Have upstream a package of many sources, `app-misc/<name>-1`."""
    held = {
        f"part{number}.c": f"int part{number}(void) {{ return {number}; }}\n"
        for number in range(FILES - 1)
    }
    held["main.c"] = '#include <stdio.h>\nint main(void) { return puts("spread") < 0; }\n'
    held["Makefile"] = MAKEFILE.format(name=name)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for member, text in sorted(held.items()):
            entry = tarfile.TarInfo(f"{name}-1/{member}")
            entry.size, entry.mode = len(text), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))
    place(lab.upstream / "distfiles", f"{name}-1.tar", packed.getvalue())
    folder = lab.upstream / "tree/app-misc" / name
    folder.mkdir()
    (folder / f"{name}-1.ebuild").write_text(EBUILD.format(compile=compile_line))


def taken_away(lab: Rehearsal, name: str, path: str) -> bytes:
    """A file of a package; the package is gone then, so that the next build makes it anew."""
    package = lab.lab.folder / "state/build/blade/staging" / name
    content = program(package, path)
    package.unlink()
    return content


def program(package: Path, path: str) -> bytes:
    """A file of a package."""
    with tarfile.open(package) as outer:
        [image] = [each for each in outer if each.name.endswith("image.tar.zst")]
        packed = outer.extractfile(image)
        assert packed is not None
        data = zstandard.ZstdDecompressor().stream_reader(packed).read()
    with tarfile.open(fileobj=io.BytesIO(data)) as inner:
        [member] = [each for each in inner if each.name.endswith(path)]
        content = inner.extractfile(member)
        assert content is not None
        return content.read()


def distcc_on(lab: Rehearsal, blade: str, host: str, compiler: str) -> tuple[int, str]:
    """Compile something on a blade by distccd of `host`."""
    script = (
        "cd /root && echo 'int f(void) { return 1; }' > f.c && "
        f"DISTCC_HOSTS={host}/1 DISTCC_FALLBACK=0 distcc {compiler} -c f.c -o f.o"
    )
    done = lab.lab.node(blade).run(["sh", "-c", script], timeout_s=60, check=False)
    return done.code, done.errors


def test_each_helper_that_cannot_help_is_named_with_the_reason(lab: Rehearsal) -> None:
    done = lab.headnode("distcc", "probe", "--json", check=False)
    said = json.loads(done.output)
    assert {each["helper"]: each["reason"] for each in said["helpers"]} == {
        "blade01": "",
        "blade02": "",
        "blade03": "it has gcc version 11.3.0 (Debian 11.3.0-12), "
        "the builder gcc version 12.2.0 (Debian 12.2.0-14+deb12u1)",
        "blade04": "it is slow: no object within 8 s",
        "blade05": "it does not answer at port 3632: connection refused",
        "blade06": "its gcc version 12.2.0 (Debian 12.2.0-14+deb12u1) makes another object than "
        "the builder's, of the same file with the same flags",
        "blade07": CUT_OFF,
        "blade08": CUT_OFF,
    }
    assert said["make_options"] == f"-j4 -l{3 * JOBS}"
    assert done.code == 3


def test_distccd_runs_as_its_user_and_gives_way_to_what_the_blade_is_for(lab: Rehearsal) -> None:
    argv = ["ps", "-C", "distccd", "-o", "user=,nice="]
    said = lab.lab.node("blade01").run(argv, timeout_s=30).output
    assert {tuple(line.split()) for line in said.splitlines()} == {(USER, "15")}


def test_a_compiler_by_the_chost_s_name_is_started_and_a_program_that_is_none_is_not(
    lab: Rehearsal,
) -> None:
    for blade in ("blade01", "blade05"):
        for name in (CHOST_GCC, "backdoor-gcc"):
            put(lab, blade, f"/usr/local/bin/{name}", '#!/bin/sh\nexec gcc "$@"\n')
    before = compiled(lab, "blade01")["f.c"]
    assert distcc_on(lab, "blade05", "blade01", CHOST_GCC)[0] == 0
    # distccd answers first, and notes it then.
    assert until(lambda: compiled(lab, "blade01")["f.c"] == before + 1)
    code, said = distcc_on(lab, "blade05", "blade01", "backdoor-gcc")
    assert code != 0
    assert "failed to distribute and fallbacks are disabled" in said
    assert compiled(lab, "blade01")["f.c"] == before + 1


def test_jobs_from_another_network_are_refused(lab: Rehearsal) -> None:
    before = compiled(lab, "blade01")["f.c"]
    assert distcc_on(lab, "blade01", "127.0.0.1", "gcc")[0] != 0  # its own loopback is another
    assert compiled(lab, "blade01")["f.c"] == before


def test_a_real_package_is_compiled_by_the_helpers_that_can_and_by_nobody_else(
    lab: Rehearsal,
) -> None:
    assert "app-text/tree" in read_assembled(lab.upstream).real
    before = {name: compiled(lab, name) for name in ("blade01", "blade02")}
    done = lab.headnode("build")
    sources: Counter[str] = Counter()
    for name, earlier in before.items():
        sources += compiled(lab, name) - earlier
    sources -= Counter({"probe.c": 2, "probe.cc": 2})
    said = record(lab)
    objects = {"tree.c", "list.c", "hash.c", "color.c", "file.c", "filter.c", "info.c", "unix.c"}
    assert set(sources) >= objects
    assert set(sources.values()) == {1}
    assert sum(said["jobs"].values()) == len(sources)
    assert set(said["jobs"]) == {"blade01", "blade02"}
    assert min(said["jobs"].values()) > 0
    assert (said["local"], said["fallbacks"], said["faulty"], said["failures"]) == (0, 0, 0, {})
    assert sorted(said["left_out"]) == [f"blade{number:02}" for number in range(3, 9)]
    assert (said["mode"], said["make_options"]) == ("plain", f"-j4 -l{3 * JOBS}")
    assert "blade05 is left out: it does not answer at port 3632: connection refused." in (
        done.errors.splitlines()
    )
    assert "WARNING" not in done.errors


def test_without_any_helper_the_headnode_compiles_alone_and_makes_the_same_program(
    lab: Rehearsal,
) -> None:
    helped = taken_away(lab, TREE, "usr/bin/tree")
    configure(lab, tables(["app-text/tree"], "blade05"))
    done = lab.headnode("build")
    warning = "WARNING: no helper could be used, the headnode compiled alone."
    assert warning in done.errors.splitlines()
    why = "it does not answer at port 3632: connection refused"
    said = record(lab)
    assert (said["jobs"], said["left_out"]) == ({}, {"blade05": why})
    assert lab.headnode("distcc", "probe", check=False).code == 1
    assert taken_away(lab, TREE, "usr/bin/tree") == helped


def test_a_build_whose_jobs_reach_no_helper_says_so_loudly(lab: Rehearsal) -> None:
    configure(lab, tables(["app-misc/apart"], "blade[01-02]"))
    done = lab.headnode("build")
    said = record(lab)
    assert (said["jobs"], said["local"]) == ({"blade01": 0, "blade02": 0}, 0)
    assert said["fallbacks"] == FILES
    assert (
        f"WARNING: blade[01-02] could have helped, and not one of {FILES} compile jobs came back "
        "from there: look into the build's logs/distcc/log."
    ) in done.errors.splitlines()


def test_a_helper_that_dies_in_the_middle_costs_its_jobs_only(lab: Rehearsal) -> None:
    for blade, seconds in (("blade01", 1), ("blade02", 6)):
        slow = f'#!/bin/sh\nsleep {seconds}\nexec /usr/bin/gcc "$@"\n'
        put(lab, blade, f"/usr/local/bin/{GCC}", slow)
    configure(lab, tables(["app-misc/spread"], "blade[01-02]", probe_timeout_s=60.0))
    before = compiled(lab, "blade01")
    argv = lab.argv("build")
    build = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    folder = lab.lab.folder / "state/build/blade/logs/distcc"

    def busy() -> set[str]:
        return {task.host for task in tasks(folder, since=0) if task.phase == "compiling"}

    assert until(lambda: build.poll() is not None or {"blade01", "blade02"} <= busy(), 300)
    shown = lab.headnode("distcc", "status").output
    assert build.poll() is None
    lab.lab.node("blade02").stop()
    _, errors = build.communicate(timeout=600)
    assert build.returncode == 0, errors
    assert shown.splitlines()[0].split() == ["host", "slot", "phase", "file"]
    assert any(line.split()[:3] == ["blade02", "0", "compiling"] for line in shown.splitlines())
    said = record(lab)
    assert list(said["failures"]) == ["blade02"]
    assert sum(said["jobs"].values()) + said["fallbacks"] == FILES
    assert (said["local"], said["faulty"]) == (0, 0)
    by_the_survivor = (compiled(lab, "blade01") - before) - Counter({"probe.c": 1, "probe.cc": 1})
    assert sum(by_the_survivor.values()) == said["jobs"]["blade01"] > 0
    after = lab.headnode("distcc", "status").output
    assert after.startswith("Nothing is being compiled.\n")
    assert f"blade01  {said['jobs']['blade01']}" in after


def test_pump_mode_that_does_not_work_is_not_used_and_said(lab: Rehearsal) -> None:
    configure(lab, tables(["app-misc/spread"], "blade01", mode="pump"))
    said = json.loads(lab.headnode("distcc", "probe", "--json").output)
    assert [each["reason"] for each in said["helpers"]] == [""]
    # That of Debian 12 is broken, which distcc itself says in its log only.
    assert said["pump"] == (
        "distcc did without it: failed to get includes from include server, preprocessing locally"
        if shutil.which("distcc-pump")
        else "the builder has no pump"
    )
