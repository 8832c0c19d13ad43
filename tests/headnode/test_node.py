import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from headnode.errors import EnvironmentLacksError, ExitCode, NodeError
from headnode.files import remove_tree
from headnode.node.machine import TOOLS, lacking, require_namespaces
from headnode.node.running import Node, start, start_all, start_time
from headnode.node.script import setup_script
from headnode.node.spec import (
    NODE_PATH,
    Bind,
    Life,
    NodeSpec,
    empty_in_upper,
    mount_of,
    write_upper,
)

ROOT = Path("/")
MOUNTINFO = """\
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 254:0 /srv/home /home rw shared:1 - ext4 /dev/vda rw
29 27 0:25 / /with\\040space rw - xfs /dev/vdb rw
30 27 0:26 / /mnt rw - nfs4 host:/ rw
31 27 0:27 / /mnt rw - tmpfs tmpfs rw
"""


def spec(folder: Path, name: str = "n1", **options: object) -> NodeSpec:
    return NodeSpec(**{"name": name, "store": folder / name, "lower": ROOT, **options})


def said(node: Node, line: str) -> str:
    return node.run(["sh", "-c", line], timeout_s=30).output.strip()


def traces(folder: Path) -> list[int]:
    """The processes that have a mount of `folder` in their view of the machine."""
    found = []
    for info in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            text = info.read_text()
        except OSError:
            continue
        if str(folder) in text:
            found.append(int(info.parts[2]))
    return found


def machine(folder: Path) -> dict[str, object]:
    """What of the machine a node must not change, less what the tests beside this one mount."""
    links = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True)
    names = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True)
    worker = next((part for part in folder.parts if part.startswith("popen-gw")), "")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [line for line in lines if "/popen-gw" not in line or f"/{worker}/" in line]
    return {
        "mounts": mounts,
        "addresses": links.stdout,
        "named networks": names.stdout,
        "hostname": Path("/proc/sys/kernel/hostname").read_text(),
        "etc": {
            str(path): (found.st_mtime_ns, found.st_size, found.st_ino)
            for path in sorted(Path("/etc").rglob("*"))
            for found in [path.lstat()]
        },
    }


def gone_soon(pid: int, started: int) -> bool:
    deadline = time.monotonic() + 10
    while start_time(pid) == started and time.monotonic() < deadline:
        time.sleep(0.01)
    return start_time(pid) != started


@pytest.mark.lab
def test_three_nodes_have_names_networks_and_processes_of_their_own(tmp_path: Path) -> None:
    before = machine(tmp_path)
    up = start_all([spec(tmp_path, f"blade0{number}") for number in (1, 2, 3)])
    try:
        assert [said(node, "hostname") for node in up] == ["blade01", "blade02", "blade03"]
        for kind in ("mnt", "uts", "ipc", "net", "pid"):
            seen = {said(node, f"readlink /proc/self/ns/{kind}") for node in up}
            assert len(seen | {str(Path(f"/proc/self/ns/{kind}").readlink())}) == 4, kind
        assert [said(node, "cat /proc/1/comm") for node in up] == ["sh"] * 3
        links = [said(node, "ip -o link | cut -d: -f2 | tr -d ' \n'") for node in up]
        assert links == ["lo"] * 3
        assert all(node.alive() for node in up)
    finally:
        for node in up:
            node.stop()
    assert not any(node.alive() for node in up)
    assert traces(tmp_path) == []
    assert machine(tmp_path) == before


@pytest.mark.lab
def test_writes_land_in_the_upper_and_never_in_the_lower(tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    for name in ("usr", "bin", "lib", "lib64", "sbin"):
        if (ROOT / name).is_dir():
            (lower / name).mkdir(parents=True)
    (lower / "etc").mkdir()
    (lower / "etc/motd").write_text("old\n")
    (lower / "etc/gone").write_text("")
    # Programs come from the machine: the lower is a root with nothing but two files.
    binds = tuple(
        Bind(source=ROOT / path.name, target=PurePosixPath("/", path.name))
        for path in lower.iterdir()
        if path.name != "etc"
    )
    one = spec(tmp_path, lower=lower, binds=binds)
    node = start(one)
    try:
        said(node, "echo new > /etc/motd; rm /etc/gone; echo mine > /etc/mine")
        assert said(node, "cat /etc/motd; ls /etc") == "new\nmine\nmotd"
    finally:
        node.stop()
    assert (lower / "etc/motd").read_text() == "old\n"
    assert sorted(path.name for path in (lower / "etc").iterdir()) == ["gone", "motd"]
    assert (one.upper / "etc/motd").read_text() == "new\n"
    assert (one.upper / "etc/mine").read_text() == "mine\n"
    assert sorted(path.name for path in lower.iterdir()) == sorted(
        ["etc", *(bind.source.name for bind in binds)]
    )


@pytest.mark.lab
def test_what_a_builder_wrote_is_there_when_it_comes_up_again(tmp_path: Path) -> None:
    one = spec(tmp_path)
    for count in range(5):  # at once after the other ended
        node = start(one)
        assert said(node, "echo x >> /etc/kept; wc -l < /etc/kept") == str(count + 1)
        node.stop()


@pytest.mark.lab
def test_a_layer_beneath_is_seen_over_the_root_and_never_written(tmp_path: Path) -> None:
    root, layer = tmp_path / "root", tmp_path / "layer"
    for folder in ("bin", "etc", "lib", "lib64", "sbin", "usr"):
        if (ROOT / folder).is_symlink():
            (root / folder).parent.mkdir(exist_ok=True)
            (root / folder).symlink_to((ROOT / folder).readlink())
        else:
            (root / folder).mkdir(parents=True)
    (root / "etc/word").write_text("root's")
    (layer / "etc").mkdir(parents=True)
    (layer / "etc/word").write_text("layer's")
    usr = Bind(source=ROOT / "usr", target=PurePosixPath("/usr"))
    node = start(spec(tmp_path, lower=root, beneath=(layer,), binds=(usr,)))
    try:
        assert said(node, "cat /etc/word; echo mine > /etc/word; cat /etc/word") == "layer'smine"
    finally:
        node.stop()
    assert (layer / "etc/word").read_text() == "layer's"
    assert (root / "etc/word").read_text() == "root's"
    with pytest.raises(NodeError) as error:
        start(spec(tmp_path, beneath=(tmp_path / "none",)))
    assert str(error.value) == f"n1: the layer {tmp_path / 'none'} is not a folder."


@pytest.mark.lab
def test_a_node_starts_with_what_was_written_into_its_upper(tmp_path: Path) -> None:
    one = spec(tmp_path)
    write_upper(one, {"/etc/portage/make.conf": 'USE="x"\n'})
    write_upper(one, {"/usr/local/bin/hello": "#!/bin/sh\necho hi $1\n"}, mode=0o755)
    empty_in_upper(one, "/usr/share")
    node = start(one)
    try:
        assert said(node, "cat /etc/portage/make.conf; hello you") == 'USE="x"\nhi you'
        assert said(node, "ls -A /usr/share") == ""
    finally:
        node.stop()


@pytest.mark.lab
def test_a_node_has_fresh_devices_and_folders(tmp_path: Path) -> None:
    (tmp_path / "on the machine").write_text("")
    node = start(spec(tmp_path))
    try:
        assert said(node, "ls -A /tmp") == ""
        assert said(node, "ls -A /run") in ("", "mount")  # libmount's own
        assert said(node, "ls -A / | grep -c '^.old$' || true") == "0"
        assert said(node, "head -c 3 /dev/zero | wc -c; echo x > /dev/null; readlink /dev/fd") == (
            "3\n/proc/self/fd"
        )
        script = "import os; m, s = os.openpty(); print(os.ttyname(s))"
        assert said(node, f"/usr/bin/python3 -c '{script}'") == "/dev/pts/0"
        assert said(node, "touch /sys/x 2>&1 || true").endswith("Read-only file system")
    finally:
        node.stop()


@pytest.mark.lab
def test_binds_are_read_only_unless_writable(tmp_path: Path) -> None:
    for name in ("ro", "rw"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"{name}\n")
    binds = (
        Bind(source=tmp_path / "ro", target=PurePosixPath("/opt/a new one/ro")),
        Bind(source=tmp_path / "rw", target=PurePosixPath("/opt/rw"), writable=True),
        Bind(source=tmp_path / "ro/file", target=PurePosixPath("/etc/new/single")),
    )
    node = start(spec(tmp_path, binds=binds))
    try:
        assert said(node, "cat '/opt/a new one/ro/file' /opt/rw/file /etc/new/single") == (
            "ro\nrw\nro"
        )
        for target in ("'/opt/a new one/ro/x'", "/etc/new/single"):
            done = node.run(["sh", "-c", f"echo x > {target}"], timeout_s=9, check=False)
            assert done.code
            assert done.errors.endswith(": Read-only file system\n")
        said(node, "echo from the node > /opt/rw/file")
    finally:
        node.stop()
    assert (tmp_path / "rw/file").read_text() == "from the node\n"
    assert [path.name for path in (tmp_path / "ro").iterdir()] == ["file"]


@pytest.mark.lab
def test_hidden_folders_are_empty_but_for_what_is_bound_below(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("")
    node = start(
        spec(
            tmp_path,
            hidden=(Path("/usr/share"), Path("/opt/mine/inner"), Path("/not/there")),
            binds=(
                Bind(source=tmp_path / "mine", target=PurePosixPath("/usr/share/deep/mine")),
                Bind(source=ROOT / "usr", target=PurePosixPath("/opt/mine")),
            ),
        )
    )
    try:
        assert said(node, "cd /usr/share; find . -type f") == "./deep/mine/file"
        assert said(node, "ls -d /opt/mine/bin; ls -d /not || true") == "/opt/mine/bin"
    finally:
        node.stop()
    bound = (Bind(source=ROOT / "usr", target=PurePosixPath("/opt/usr")),)
    node = start(spec(tmp_path, hidden=(Path("/opt/usr/share"), Path("/opt/usr/lib")), binds=bound))
    try:
        assert said(node, "ls -A /opt/usr/share /opt/usr/lib") == "/opt/usr/lib:\n\n/opt/usr/share:"
    finally:
        node.stop()


@pytest.fixture
def beside_tmp() -> Iterator[Path]:
    """A folder of the machine in a place that nodes do not have anew."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.mark.lab
def test_what_is_bound_and_hidden_is_where_the_links_of_the_root_lead(
    tmp_path: Path, beside_tmp: Path
) -> None:
    """Not where they lead on the machine itself."""
    root, mine, secret = tmp_path / "root", tmp_path / "mine", beside_tmp / "secret"
    for folder in (root / "var/db", root / "etc", mine, secret):
        folder.mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    (mine / "file").write_text("of the snapshot")
    (secret / "key").write_text("of the machine")
    inner = root / str(secret).lstrip("/")
    inner.mkdir(parents=True)
    (inner / "key").write_text("of the root")
    (root / "var/db/repos").symlink_to(beside_tmp)  # which is there on the machine, too
    (root / "etc/state").symlink_to("../var/db/repos/secret")
    binds = (
        Bind(source=Path("/usr"), target=PurePosixPath("/usr")),
        Bind(source=mine, target=PurePosixPath("/var/db/repos/gentoo")),
    )
    made = NodeSpec(
        name="linked",
        store=tmp_path / "store",
        lower=root,
        binds=binds,
        hidden=(Path("/etc/state"),),
    )
    node = start(made)
    try:
        assert said(node, "cat /var/db/repos/gentoo/file") == "of the snapshot"
        assert said(node, f"ls -A {secret} /etc/state/") == f"/etc/state/:\n\n{secret}:"
    finally:
        node.stop()
    assert (secret / "key").read_text() == "of the machine"
    write_upper(made, {"/etc/state/file": "given to the node"})
    node = start(made)
    try:
        assert said(node, f"ls -A {secret}") == ""
    finally:
        node.stop()
    remove_tree(made.upper / "etc/state")
    (root / "etc/state").unlink()
    (root / "etc/state").symlink_to("/etc/state")
    with pytest.raises(NodeError) as raised:
        start(made)
    assert str(raised.value) == f"linked: the links of {root}/etc/state lead in a circle."


@pytest.mark.lab
def test_a_node_over_no_root_sees_the_machines_files_but_not_its_network(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here\n")
    hosts = tmp_path / "hosts"
    hosts.write_text("10.0.0.1 only\n")
    node = start(
        spec(
            tmp_path,
            lower=None,
            binds=(Bind(source=hosts, target=PurePosixPath("/etc/hosts")),),
        )
    )
    try:
        assert said(node, f"cat {tmp_path}/file /etc/hosts; ls /sys/class/net >&2") == (
            "here\n10.0.0.1 only"
        )
        assert said(node, "ip -o link | wc -l; cat /proc/1/comm") == "1\nsh"
        said(node, f"echo written > {tmp_path}/file")
    finally:
        node.stop()
    assert (tmp_path / "file").read_text() == "written\n"
    assert "10.0.0.1 only" not in Path("/etc/hosts").read_text()


@pytest.mark.lab
def test_orphans_in_a_node_leave_no_zombies(tmp_path: Path) -> None:
    node = start(spec(tmp_path))
    try:
        said(node, "for i in 1 2 3 4 5; do (sh -c 'sleep 0.1 > /dev/null 2>&1 &'); done")
        time.sleep(0.3)
        states = said(node, "cat /proc/[0-9]*/stat").splitlines()
        assert [line for line in states if line.rpartition(")")[2].split()[0] == "Z"] == []
        assert not any("(sleep)" in line for line in states)
    finally:
        node.stop()


@pytest.mark.lab
def test_stopping_ends_every_process_of_the_node(tmp_path: Path) -> None:
    node = start(spec(tmp_path))
    busy = subprocess.Popen(node.argv(["sh", "-c", "trap '' TERM INT; sleep 1000; sleep 1000"]))
    said(node, "setsid sleep 1000 > /dev/null 2>&1 < /dev/null &")
    assert len(traces(tmp_path)) >= 4
    node.stop()
    busy.wait(timeout=10)
    assert traces(tmp_path) == []
    node.stop()  # once more does no harm


def children() -> set[str]:
    """This process's children, dead ones that nobody has waited for among them."""
    known = Path("/proc/self/task").glob("*/children")
    pids = [pid for each in known for pid in each.read_text("ascii").split()]
    return {f"{pid} {Path(f'/proc/{pid}/comm').read_text('ascii').strip()}" for pid in pids}


@pytest.mark.lab
def test_a_starter_keeps_no_handle_of_stopped_nodes(tmp_path: Path) -> None:
    handles = len(list(Path("/proc/self/fd").iterdir()))
    before = children()
    for _ in range(5):
        start(spec(tmp_path)).stop()
    assert len(list(Path("/proc/self/fd").iterdir())) == handles
    assert children() - before == set()


STARTER = """
import sys, time
from pathlib import Path
from headnode.node.running import start
from headnode.node.spec import Life, NodeSpec
store = Path(sys.argv[1])
node = start(NodeSpec(name="n1", store=store, lower=Path("/")), life=Life(sys.argv[2]))
print(node.pid, node.started, flush=True)
time.sleep(float(sys.argv[3]))
"""


def starter(store: Path, life: Life, stay_s: float) -> tuple[subprocess.Popen[str], Node]:
    """A process that starts a node and stays for a while, and the node."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(store), life, str(stay_s)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    pid, started = map(int, process.stdout.readline().split())
    return process, Node(name="n1", pid=pid, started=started, store=store)


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_node_ends_with_its_starter_whatever_ends_that(
    tmp_path: Path, number: signal.Signals
) -> None:
    process, node = starter(tmp_path / "n1", Life.WITH_STARTER, 60)
    assert node.alive()
    process.send_signal(number)
    process.communicate()
    assert gone_soon(node.pid, node.started)
    assert traces(tmp_path) == []


@pytest.mark.lab
def test_a_node_that_is_to_stay_outlives_its_starter_until_it_is_stopped(tmp_path: Path) -> None:
    process, node = starter(tmp_path / "n1", Life.UNTIL_STOPPED, 0)
    process.wait()
    killed, other = starter(tmp_path / "n2", Life.UNTIL_STOPPED, 60)
    killed.kill()
    killed.wait()
    time.sleep(0.3)
    for each in (node, other):
        assert each.alive()
        assert said(each, "hostname") == "n1"
        each.stop()
        assert not each.alive()
    assert traces(tmp_path) == []


@pytest.mark.lab
def test_nodes_inside_another_end_with_it(tmp_path: Path) -> None:
    outer = start(spec(tmp_path, "outer"))
    inner = start_all([spec(tmp_path, "a"), spec(tmp_path, "b")], inside=outer.pid)
    assert all(node.alive() for node in inner)
    outer.stop()
    assert not any(node.alive() for node in inner)
    for node in inner:
        node.stop()
    assert traces(tmp_path) == []


@pytest.mark.lab
def test_a_setup_that_fails_tells_why_and_leaves_nothing(tmp_path: Path) -> None:
    bad = Bind(source=tmp_path, target=PurePosixPath("/etc/passwd"))  # a folder over a file
    for life in Life:
        specs = [spec(tmp_path, "a"), spec(tmp_path, "bad", binds=(bad,)), spec(tmp_path, "b")]
        outer = start(spec(tmp_path, "outer"))
        for inside in (None, outer.pid):
            with pytest.raises(NodeError) as caught:
                start_all(specs, inside=inside, life=life)
            why = str(caught.value).replace("\u2018", "'").replace("\u2019", "'")
            assert why == (
                "Node bad did not come up: mkdir: cannot create directory "
                f"'{tmp_path}/bad/root/etc/passwd': File exists."
            )
            names = [
                pid for pid in traces(tmp_path) if str(tmp_path / "outer") not in mounts_of(pid)
            ]
            assert names == []
        outer.stop()
    assert traces(tmp_path) == []


def mounts_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return ""


@pytest.mark.lab
def test_a_lower_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path) -> None:
    lower = tmp_path / "no stage3"
    with pytest.raises(NodeError) as caught:
        start_all([spec(tmp_path, "good"), spec(tmp_path, "bad", lower=lower)])
    assert str(caught.value) == f"bad: the root {lower} is not a folder."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.lab
@pytest.mark.parametrize("mark", list(',:\\"'))
def test_a_path_that_overlayfs_would_misread_is_refused(tmp_path: Path, mark: str) -> None:
    folder = tmp_path / f"a{mark}b"
    folder.mkdir()
    for bad in (spec(folder), spec(tmp_path, lower=folder)):
        with pytest.raises(NodeError) as caught:
            start(bad)
        assert str(caught.value) == (
            f"overlayfs cannot take the path {folder if bad.lower != ROOT else bad.store}. "
            "Use a folder whose path has no comma, colon, backslash or quotation mark."
        )
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.lab
def test_odd_paths_that_can_be_had_work(tmp_path: Path) -> None:
    folder = tmp_path / "it's a $(folder) ü"
    folder.mkdir()
    node = start(spec(folder, binds=(Bind(source=folder, target=PurePosixPath("/opt/$HOME")),)))
    try:
        assert said(node, "ls '/opt/$HOME'") == "n1"
    finally:
        node.stop()


@pytest.mark.lab
def test_a_bind_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    bind = Bind(source=tmp_path / "none", target=PurePosixPath("/none"))
    with pytest.raises(NodeError) as caught:
        start(spec(tmp_path, binds=(bind,)))
    assert str(caught.value) == f"n1: {tmp_path / 'none'} is not there to be bound in."


@pytest.mark.lab
def test_a_store_on_an_overlay_is_refused_with_a_way_out(tmp_path: Path) -> None:
    """As in a container, whose own root is an overlay."""
    script = f"""
from pathlib import Path
from headnode.node.running import start
from headnode.node.spec import NodeSpec
start(NodeSpec(name="n1", store=Path({str(tmp_path / "m" / "n1")!r}), lower=Path("/")))
"""
    line = (
        "mkdir l u w m; mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay m && "
        '"$1" -c "$2"'
    )
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line, "sh", sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1] == (
        f"headnode.errors.NodeError: n1: {tmp_path}/m/n1 lies on overlay, which overlayfs cannot "
        "write to. Use a folder on a local file system such as ext4, xfs, btrfs or tmpfs."
    )


@pytest.mark.lab
def test_a_command_in_a_node_has_a_clean_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    node = start(spec(tmp_path))
    try:
        assert sorted(said(node, "env").splitlines()) == sorted(
            [
                "HOME=/root",
                "LC_ALL=C.UTF-8",
                "LOGNAME=root",
                f"PATH={NODE_PATH}",
                "PWD=/",
                "TERM=dumb",
                "TZ=UTC",
                "USER=root",
            ]
        )
        done = node.run(["sh", "-c", "echo out; echo err >&2; exit 9"], timeout_s=9, check=False)
        assert (done.code, done.output, done.errors) == (9, "out\n", "err\n")
    finally:
        node.stop()


@pytest.mark.lab
def test_without_roots_rights_it_says_just_that(tmp_path: Path) -> None:
    script = f"""
import ctypes, os
from pathlib import Path
from headnode.node.running import start
from headnode.node.spec import NodeSpec
os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, as after an exec: /proc/self is its own
try:
    start(NodeSpec(name="n1", store=Path({str(tmp_path)!r}), lower=Path("/")))
except Exception as error:
    print(type(error).__name__, int(error.exit_code), error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        "EnvironmentLacksError 2 This machine cannot run builder or lab nodes:\n"
        "  - root's rights: run it as root (sudo)\n"
    )


ALL_KINDS = ("ipc", "mnt", "net", "pid", "uts")


def test_a_machine_that_has_everything_lacks_nothing() -> None:
    assert lacking(uid=0, programs=TOOLS, namespaces=ALL_KINDS, overlayfs=True) == []


def test_everything_that_is_missing_is_named_at_once() -> None:
    assert lacking(
        uid=1000,
        programs=set(TOOLS) - {"ip", "nsenter"},
        namespaces=set(ALL_KINDS) - {"net"},
        overlayfs=False,
    ) == [
        "root's rights: run it as root (sudo)",
        "ip: iproute2 (Debian), sys-apps/iproute2 (Gentoo)",
        "nsenter: util-linux (Debian), sys-apps/util-linux (Gentoo)",
        "net namespaces in the kernel: CONFIG_NET_NS=y",
        "overlayfs in the kernel: modprobe overlay, or CONFIG_OVERLAY_FS=y",
    ]


def test_what_is_missing_ends_in_usage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A machine without any program.
    monkeypatch.setattr("headnode.node.machine.NODE_PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(EnvironmentLacksError) as caught:
        require_namespaces()
    assert caught.value.exit_code is ExitCode.USAGE
    assert [item.partition(":")[0] for item in caught.value.missing] == list(TOOLS)


@pytest.mark.parametrize("life", list(Life))
def test_no_line_of_the_setup_goes_on_after_a_failure(tmp_path: Path, life: Life) -> None:
    """`set -e` overlooks what fails before &&: a node without its own root would run on /."""
    for lower in (ROOT, None):
        script = setup_script(spec(tmp_path, lower=lower, hidden=(Path("/x"),)), life)
        assert script.startswith("set -eu\n")
        assert "&&" not in script


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", ("/", "ext4")),
        ("/homes", ("/", "ext4")),
        ("/home/me", ("/home", "ext4")),
        ("/with space/x", ("/with space", "xfs")),
        ("/mnt/x", ("/mnt", "tmpfs")),
    ],
)
def test_the_mount_of_a_path_is_the_innermost_and_the_last(
    path: str, found: tuple[str, str]
) -> None:
    assert mount_of(Path(path), MOUNTINFO) == (Path(found[0]), found[1])


def test_a_process_that_is_gone_has_no_start_time() -> None:
    process = subprocess.Popen(["sleep", "60"])
    assert start_time(process.pid) is not None
    process.kill()
    deadline = time.monotonic() + 5
    while start_time(process.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert start_time(process.pid) is None  # a zombie: nobody waited for it yet
    process.wait()
    assert start_time(process.pid) is None
