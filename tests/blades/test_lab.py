import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path, PurePosixPath

import pytest

from blades import lab as labs
from blades.inventory import Blade
from blades.lab import Lab, addresses, bridge_batch, down, enter_script, hosts_text, load, running
from blades.transport import run_on
from config.model import Rollout
from config.portage import Rendered
from headnode.errors import BusyError, NodeError
from headnode.files import locked
from headnode.node.running import start_time
from headnode.node.spec import Bind, Life
from headnode.process import end_group
from schedules.rollout import PULL, Result, rollout_once

REPORT = '{"result": "updated", "generation": 3, "packages": 1, "emerge": true, "error": ""}'
BLADE = Rendered(
    files={
        "/etc/portage/make.conf": 'USE="lab"\n',
        PULL: f"#!/bin/sh\necho merging; echo '{REPORT}'\n",
    },
    links={"/etc/portage/make.profile": "../../var/db/repos/gentoo/profiles/lab"},
)
PYTHON = "/usr/bin/python3"


def rendered(count: int) -> dict[str, Rendered]:
    return {f"blade{number:02}": BLADE for number in range(1, count + 1)}


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


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def machine(folder: Path) -> tuple[list[str], str, str]:
    """What a lab must not change; what the tests beside this one mount is left out."""
    links = subprocess.run(["ip", "-o", "address"], capture_output=True, text=True, check=True)
    worker = next((part for part in folder.parts if part.startswith("popen-gw")), "")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounts = [line for line in lines if "/popen-gw" not in line or f"/{worker}/" in line]
    return mounts, links.stdout, Path("/etc/hosts").read_text()


def said(lab: Lab, name: str, line: str) -> str:
    return lab.node(name).run(["sh", "-c", line], timeout_s=30).output.strip()


def script(text: str, *words: object) -> subprocess.Popen[str]:
    """A Python process of its own that runs `text`."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def until(claim: object, seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while not claim() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.01)
    return bool(claim())  # type: ignore[operator]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab of three blades, and the proof that it left the machine as it was."""
    folder = tmp_path_factory.mktemp("a lab")
    before = machine(folder)
    with running(folder, rendered(3)) as lab:
        yield lab
    assert machine(folder) == before
    assert traces(folder) == []
    assert left(folder) == [".lock"]


@pytest.mark.lab
def test_a_blade_starts_with_its_files_and_with_nothing_of_the_machines_portage(lab: Lab) -> None:
    for name in ("blade01", "blade02", "blade03"):
        assert said(lab, name, "hostname; cat /etc/portage/make.conf; ls -A /etc/portage") == (
            f'{name}\nUSE="lab"\nmake.conf\nmake.profile'
        )
    assert said(lab, "blade01", "readlink /etc/portage/make.profile") == (
        "../../var/db/repos/gentoo/profiles/lab"
    )
    assert said(lab, "blade01", "ls -A /var/cache/binpkgs /var/cache/distfiles /var/cache/edb") == (
        "/var/cache/binpkgs:\n\n/var/cache/distfiles:\n\n/var/cache/edb:"
    )
    assert said(lab, "blade01", f"ls -A '{lab.folder}' 2>/dev/null || true") == ""


@pytest.mark.lab
def test_the_nodes_reach_each_other_by_name(lab: Lab) -> None:
    serve = """
import socket
server = socket.create_server(("0.0.0.0", 7777))
print("ready", flush=True)
while True:
    client, (address, _) = server.accept()
    client.sendall(f"{socket.gethostname()} to {address}".encode())
    client.close()
"""
    servers = [
        subprocess.Popen(
            node.argv([PYTHON, "-c", serve]),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for node in lab.nodes.values()
    ]
    assert [server.stdout and server.stdout.readline() for server in servers] == ["ready\n"] * 5
    ask = "import socket, sys\n" + (
        "for name in sys.argv[1:]: print(socket.create_connection((name, 7777), 5).recv(99))"
    )
    known = {str(name): str(address) for name, address in addresses(list(rendered(3))).items()}
    for name, node in lab.nodes.items():
        others = [other for other in lab.nodes if other != name]
        answers = node.run([PYTHON, "-c", ask, *others], timeout_s=30).output.splitlines()
        assert answers == [str(f"{other} to {known[name]}".encode()) for other in others]
    for server in servers:
        end_group(server)


@pytest.mark.lab
def test_nothing_leaves_the_lab(lab: Lab) -> None:
    own = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True)
    outside = [line.split()[3].partition("/")[0] for line in own.stdout.splitlines()]
    outside = ["192.0.2.1", "1.1.1.1", *(each for each in outside if each != "127.0.0.1")]
    ask = """
import socket, sys, time
for address in sys.argv[1:]:
    started = time.monotonic()
    try:
        socket.create_connection((address, 80), 5)
        print("reached", address)
    except OSError as error:
        print(error.strerror, time.monotonic() - started < 1)
try:
    print(socket.getaddrinfo("example.org", 80))
except OSError as error:
    print("no such name")
"""
    for name, node in lab.nodes.items():
        done = node.run([PYTHON, "-c", ask, *outside], timeout_s=60)
        expected = ["Network is unreachable True"] * len(outside)
        assert done.output.splitlines() == [*expected, "no such name"], name
        routes = said(lab, name, "ip route; ip -6 route show default")
        assert len(routes.splitlines()) == 1, name
        assert routes.startswith("10.77.0.0/16 dev ")


@pytest.mark.lab
def test_a_lab_is_found_again_by_another_process(lab: Lab) -> None:
    text = (
        "import sys; from pathlib import Path; from blades.lab import load\n"
        "lab = load(Path(sys.argv[1]))\n"
        "print(lab.node('blade02').run(['hostname'], timeout_s=9).output)"
    )
    out, err = script(text, lab.folder).communicate(timeout=30)
    assert (out, err) == ("blade02\n\n", "")


@pytest.mark.lab
def test_a_node_that_the_lab_has_not_is_named_with_those_it_has(lab: Lab) -> None:
    with pytest.raises(NodeError) as caught:
        lab.node("blade9")
    assert str(caught.value) == (
        "The lab has no node 'blade9'. It has blade01, blade02, blade03, headnode, upstream."
    )


@pytest.mark.lab
def test_a_second_lab_in_the_same_folder_is_refused_and_harms_nothing(lab: Lab) -> None:
    with pytest.raises(NodeError) as caught:
        labs.up(lab.folder, rendered(1))
    assert str(caught.value) == (f"A lab is up in {lab.folder}. Take it down: headnode lab down.")
    assert said(lab, "blade03", "hostname") == "blade03"


def enter(lab: Lab, name: str, line: str) -> tuple[int, str, str]:
    done = lab.headnode.run([lab.folder / "enter", name, line], timeout_s=30, check=False)
    return done.code, done.output, done.errors


@pytest.mark.lab
@pytest.mark.parametrize(
    "line",
    [
        "printf '%s\\n' \"a  b\" 'c\"d' \"e'f\" $((1 + 2)) '$HOME' '*' %h %% %n \\\\",
        "cat <<'E'\nline 1\n  line 2 `id` $(id)\nE",
        "echo é; echo ' '; echo",
    ],
)
def test_a_shell_line_is_entered_as_it_is(lab: Lab, line: str) -> None:
    here = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert enter(lab, "blade01", line) == (0, here.stdout, "")


@pytest.mark.lab
def test_a_shell_line_is_run_in_its_node_with_its_exit_code_and_output(lab: Lab) -> None:
    assert enter(lab, "blade02", "hostname; pwd; echo no >&2; exit 42") == (
        (42, "blade02\n/\n", "no\n")
    )
    assert enter(lab, "upstream", "hostname") == (0, "upstream\n", "")
    assert enter(lab, "blade02", "kill -TERM $$")[0] in (-15, 143)


@pytest.mark.lab
def test_a_node_that_is_off_or_unknown_is_told_apart_from_a_command_that_failed(lab: Lab) -> None:
    place = lab.folder / "nodes" / "blade02" / "pid"
    kept = place.read_text()
    pid, started = kept.split()
    place.write_text(f"{pid} {int(started) + 1}\n")  # another process has that number by now
    assert enter(lab, "blade02", "hostname") == (255, "", "blade02 is off\n")
    place.write_text(f"4000000 {started}\n")
    assert enter(lab, "blade02", "hostname") == (255, "", "blade02 is off\n")
    place.write_text(kept)
    assert enter(lab, "blade02", "hostname") == (0, "blade02\n", "")
    assert enter(lab, "blade99", "hostname") == (255, "", "blade99 is off\n")


def options(lab: Lab, **more: object) -> Rollout:
    way_in = shlex.join(map(str, lab.headnode.argv([lab.folder / "enter"])))
    return Rollout.model_validate({"transport": "exec", "exec_command": f"{way_in} %h", **more})


@pytest.mark.lab
def test_a_line_is_run_on_all_blades_through_the_lab(lab: Lab) -> None:
    outcomes = run_on(list(rendered(3)), "hostname; date +%Y > /dev/null", options(lab))
    assert {name: (each.code, each.output) for name, each in outcomes.items()} == {
        name: (0, name) for name in rendered(3)
    }


@pytest.mark.lab
def test_a_rollout_goes_on_when_a_blade_is_off(tmp_path: Path) -> None:
    with running(tmp_path, rendered(3)) as lab:
        lab.node("blade02").stop()
        with pytest.raises(NodeError, match=r"^blade02 is not up\. Put the lab up anew: headnode"):
            lab.node("blade02")
        blades = [Blade(name=name, class_name="blade", ring="fleet") for name in rendered(3)]
        shown: list[str] = []
        reports = rollout_once(blades, options(lab), lambda report: shown.append(report.blade))
    assert [(each.blade, each.result) for each in reports] == [
        ("blade01", Result.UPDATED),
        ("blade02", Result.UNREACHED),
        ("blade03", Result.UPDATED),
    ]
    assert reports[0].generation == 3
    assert reports[0].log == f"merging\n{REPORT}"
    assert reports[1].error == "blade02 is off"
    assert sorted(shown) == ["blade01", "blade02", "blade03"]
    assert traces(tmp_path) == []


@pytest.mark.lab
def test_58_blades_come_up_in_seconds_and_cost_megabytes(tmp_path: Path) -> None:
    started = time.monotonic()
    with running(tmp_path, rendered(58)) as lab:
        took = time.monotonic() - started
        du = subprocess.run(
            ["du", "--summarize", "--block-size=1", str(tmp_path / "nodes")],
            capture_output=True,
            text=True,
            check=True,
        )
        assert said(lab, "blade58", "hostname -i") == "10.77.0.60"
        outcomes = run_on(list(rendered(58)), "hostname", options(lab, fanout=16))
        assert {name: each.output for name, each in outcomes.items()} == {
            name: name for name in rendered(58)
        }
    assert took < 15
    assert int(du.stdout.split()[0]) < 58 << 20
    assert traces(tmp_path) == []


RUN = """
import sys, time
from pathlib import Path
from blades.lab import running
from config.portage import Rendered
with running(Path(sys.argv[1]), {f"blade{n:02}": Rendered(files={}) for n in range(8)}) as lab:
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.lab
def test_ctrl_c_takes_a_lab_that_is_up_down(tmp_path: Path) -> None:
    process = script(RUN, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1].endswith("KeyboardInterrupt\n")
    assert traces(tmp_path) == []
    assert left(tmp_path) == [".lock"]


@pytest.mark.lab
@pytest.mark.parametrize("when", ["nodes/headnode/start.log", "nodes/blade03/start.log"])
def test_ctrl_c_while_it_comes_up_leaves_no_process(tmp_path: Path, when: str) -> None:
    process = script(RUN, tmp_path)
    assert until(lambda: (tmp_path / when).exists())
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1].endswith("KeyboardInterrupt\n")
    assert until(lambda: traces(tmp_path) == [], 5)
    down(tmp_path)
    assert left(tmp_path) == [".lock"]


def free(lock: Path) -> bool:
    try:
        with locked(lock, "the test"):
            return True
    except BusyError:
        return False


STAY = """
import sys
from pathlib import Path
from blades.lab import up
from config.portage import Rendered
from headnode.node.spec import Life
up(Path(sys.argv[1]), {f"blade{n:02}": Rendered(files={}) for n in range(8)},
   life=Life.UNTIL_STOPPED)
print("up", flush=True)
sys.stdin.read()
"""


@pytest.mark.lab
def test_a_lab_with_its_starter_ends_when_that_is_killed_and_down_clears_the_rest(
    tmp_path: Path,
) -> None:
    process = script(RUN, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.communicate()
    assert until(lambda: traces(tmp_path) == [])
    assert left(tmp_path) == [".lock", "enter", "hosts", "lab.json", "nodes"]
    assert down(tmp_path) is True
    assert left(tmp_path) == [".lock"]
    assert down(tmp_path) is False
    assert down(tmp_path / "never there") is False


@pytest.mark.lab
@pytest.mark.parametrize("when", ["lab.json", "nodes/blade03/start.log", "nodes/blade07/pid"])
def test_down_clears_what_a_killed_up_left_running(tmp_path: Path, when: str) -> None:
    process = script(STAY, tmp_path)
    assert until(lambda: (tmp_path / when).exists())
    process.kill()
    process.communicate()
    assert load(tmp_path).headnode.alive()
    # A child that it was just starting may hold its lock for another moment.
    assert until(lambda: free(tmp_path / ".lock"), 5)
    assert down(tmp_path) is True
    assert until(lambda: traces(tmp_path) == [], 5)
    assert left(tmp_path) == [".lock"]


@pytest.mark.lab
def test_a_lab_comes_up_where_a_killed_one_was(tmp_path: Path) -> None:
    process = script(RUN, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.communicate()
    assert until(lambda: traces(tmp_path) == [])
    with running(tmp_path, rendered(1)) as lab:
        assert sorted(lab.nodes) == ["blade01", "headnode", "upstream"]
        assert left(tmp_path / "nodes") == [
            *("blade01", "blade01.ip", "headnode", "headnode.ip", "upstream", "upstream.ip")
        ]


@pytest.mark.lab
def test_a_lab_that_is_to_stay_stays_until_it_is_taken_down(tmp_path: Path) -> None:
    lab = labs.up(tmp_path, rendered(1), life=Life.UNTIL_STOPPED)
    kept = json.loads((tmp_path / "lab.json").read_text())["nodes"]
    assert [node["name"] for node in kept] == ["headnode", "upstream", "blade01"]
    assert down(tmp_path) is True
    assert [start_time(node.pid) for node in lab.nodes.values()] == [None] * 3
    with pytest.raises(NodeError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"No lab is up in {tmp_path}. headnode lab up, or --lab."


@pytest.mark.lab
def test_a_blade_that_cannot_come_up_takes_the_others_down(tmp_path: Path) -> None:
    with pytest.raises(NodeError) as caught:
        labs.up(tmp_path, rendered(2), lower=tmp_path / "none")
    assert str(caught.value) == f"blade01: the root {tmp_path / 'none'} is not a folder."
    assert traces(tmp_path) == []
    assert down(tmp_path) is True


@pytest.mark.lab
def test_a_lab_on_another_mount_works(tmp_path: Path) -> None:
    text = """
import sys
from pathlib import Path
from blades.lab import running
from config.portage import Rendered
with running(Path(sys.argv[1]), {"blade01": Rendered(files={"/etc/x": "hi\\n"})}) as lab:
    line = f"cat /etc/x; ls -A {sys.argv[1]} 2> /dev/null; emerge --version > /dev/null; echo $?"
    print(lab.node("blade01").run(["sh", "-c", line], timeout_s=60).output)
"""
    line = 'mount -t tmpfs tmpfs "$1" && exec "$2" -c "$3" "$1/lab"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", line, "sh", str(tmp_path), sys.executable, text],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.split() in (["hi", "0"], ["hi", "1"])  # emerge itself may lack a profile


def test_a_blade_with_a_name_of_the_labs_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NodeError) as caught:
        labs.up(tmp_path / "lab", {"upstream": BLADE})
    assert str(caught.value) == "No blade of a lab can be called upstream."
    assert not (tmp_path / "lab").exists()


def test_addresses_are_given_in_order() -> None:
    known = addresses(["blade01", "blade02"])
    assert {name: str(address) for name, address in known.items()} == {
        "headnode": "10.77.0.1",
        "upstream": "10.77.0.2",
        "blade01": "10.77.0.3",
        "blade02": "10.77.0.4",
    }
    assert len(set(addresses([f"blade{n}" for n in range(1000)]).values())) == 1002


def test_a_blade_that_joins_later_is_reached_and_ends_with_the_lab(tmp_path: Path) -> None:
    folder = tmp_path / "lab"
    word = tmp_path / "word"
    word.write_text("bound")
    bind = Bind(source=word, target=PurePosixPath("/mnt/word"))
    store = tmp_path / "kept"
    with running(folder, rendered(1), later=("late",), binds=(bind,)) as lab:
        spec = labs.blade_spec(folder, "late", Path("/"), BLADE, store=store)
        lab = labs.join(lab, spec)
        late = lab.node("late")
        assert late.run([PULL], timeout_s=30).output.startswith("merging")
        for node, other in ((late, "blade01"), (lab.node("blade01"), "late")):
            knock = node.run(["bash", "-c", f"< /dev/tcp/{other}/9"], timeout_s=30, check=False)
            assert "Connection refused" in knock.errors  # by the other one: there is a way
        assert lab.headnode.run(["cat", "/mnt/word"], timeout_s=30).output == "bound"
        assert set(load(folder).nodes) == {"headnode", "upstream", "blade01", "late"}
    assert not late.alive()
    assert (store / "upper/etc/portage/make.conf").exists()


@pytest.mark.lab
def test_the_headnode_is_reached_at_once_whichever_node_went(tmp_path: Path) -> None:
    """A bridge without an address of its own takes that of a port, and another's when that goes."""
    ports = "ip -o link show master br0 | sed 's/.*ether \\([^ ]*\\).*/\\1/'"
    with running(tmp_path, rendered(3)) as lab:
        others = [name for name in lab.nodes if name != "headnode"]
        lowest = min(zip(said(lab, "headnode", ports).split(), others, strict=True))[1]
        rest = [lab.node(name) for name in others if name != lowest]
        knock = ["bash", "-c", "< /dev/tcp/headnode/9"]

        def refused() -> list[bool]:
            tries = [node.run(knock, timeout_s=2, check=False) for node in rest]
            return ["Connection refused" in each.errors for each in tries]

        assert all(refused())
        lab.node(lowest).stop()
        assert until(lambda: len(said(lab, "headnode", ports).split()) == len(rest))
        assert all(refused())


def test_every_node_is_in_the_hosts_file() -> None:
    assert hosts_text({"headnode": IPv4Address("10.77.0.1")}) == (
        "127.0.0.1 localhost\n10.77.0.1 headnode\n"
    )


def test_each_node_gets_a_cable_to_the_bridge() -> None:
    assert bridge_batch({"a": 11, "b": 12}, IPv4Address("10.77.0.1")).splitlines() == [
        "link add br0 address 02:00:00:00:00:01 type bridge",
        "address add 10.77.0.1/16 dev br0",
        "link set br0 up",
        "link add port0 type veth peer name eth0 netns 11",
        "link set port0 master br0 up",
        "link add port1 type veth peer name eth0 netns 12",
        "link set port1 master br0 up",
    ]


def test_the_way_in_is_a_shell_script_whatever_the_folder_is_called() -> None:
    text = enter_script(Path("/it's a $(lab)"))
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)
    assert "< '/it'\"'\"'s a $(lab)/nodes'/\"$1\"/pid " in text
