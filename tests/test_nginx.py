"""nginx in front of the lab's headnode, as `headnode serve --nginx` sets it up, and real emerge."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headnode import rehearsal
from headnode.process import environment
from headnode.rehearsal import Rehearsal
from mirror.upstream.assemble import bump

pytestmark = pytest.mark.lab

PATIENCE_S = 60.0
PACKAGE = "sys-apps/bladeinfo"


@pytest.fixture(scope="module")
def behind_nginx(tmp_path_factory: pytest.TempPathFactory, tarballs: Path) -> Iterator[Rehearsal]:
    """A lab of one blade that has published one package, with nginx at the headnode's HTTP port."""
    folder = tmp_path_factory.mktemp("lab")
    with rehearsal.running(folder, 1, cache=tarballs) as up:
        text = up.config.read_text().replace('"cluster-meta/blade"', f'"@system", "{PACKAGE}"')
        text = text.replace("backend_port = 0", "backend_port = 8081\naccess_log = 'access.log'")
        up.config.write_text(text)
        rehearsal.start_headnode(up)
        start_nginx(up)
        for words in (("mirror", "sync"), ("build",), ("publish",)):
            up.headnode(*words)
        yield up


def start_nginx(up: Rehearsal) -> None:
    """Start it in the lab's headnode; it ends with the lab."""
    config = up.lab.folder / "nginx.conf"
    certificate, key = (str(up.lab.folder / name) for name in ("cert.pem", "key.pem"))
    subject = ["-subj", "/CN=headnode", "-addext", "subjectAltName=DNS:headnode"]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    made += ["-nodes", "-days", "2", "-keyout", key, "-out", certificate, *subject]
    subprocess.run(made, check=True, capture_output=True)
    config.write_text(up.headnode("serve", "--nginx", "--tls", certificate, key).output)
    # As root, since nobody else may look into the tests' folders.
    words = ["nginx", "-c", str(config), "-e", "stderr", "-g", "daemon off; user root;"]
    up.servers.append(
        subprocess.Popen(
            up.lab.headnode.argv(words), text=True, env=environment(), stdin=subprocess.DEVNULL
        )
    )
    deadline = time.monotonic() + PATIENCE_S
    argv = ["wget", "-q", "-O", "-", "http://headnode:8080/healthz"]
    while up.lab.headnode.run(argv, timeout_s=20, check=False).output != "ok\n":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def emerge(up: Rehearsal, *words: str) -> str:
    return up.lab.node("blade01").run(["emerge", *words], timeout_s=300).output


def requests(up: Rehearsal) -> list[str]:
    """What nginx was asked: method, path, status."""
    lines = (up.lab.folder / "access.log").read_text().splitlines()
    words = [line.split() for line in lines if "blade" in line]
    return [f"{word[5][1:]} {word[6]} {word[8]}" for word in words]


def test_emerge_installs_from_nginx(behind_nginx: Rehearsal) -> None:
    blade = behind_nginx.lab.node("blade01")
    blade.run(["headnode-pull", "--trees"], timeout_s=300)
    emerge(behind_nginx, "--getbinpkgonly", "--oneshot", PACKAGE)
    done = blade.run(["bladeinfo", "--version"], timeout_s=60)
    assert "bladeinfo 1.0" in done.output
    log = (behind_nginx.lab.folder / "access.log").read_text()
    assert re.search(r'"GET /images/[0-9a-f]{64}\.squashfs HTTP/1.1" 200 ', log)
    said = requests(behind_nginx)
    assert "GET /binhost/blade/canary/Packages.gz 200" in said
    assert f"GET /binhost/blade/pool/{PACKAGE}/bladeinfo-1.0-1.gpkg.tar 200" in said


def test_the_page_and_the_packages_come_by_tls_as_well(behind_nginx: Rehearsal) -> None:
    certificate = (behind_nginx.lab.folder / "cert.pem").read_text()
    blade = behind_nginx.lab.node("blade01")
    blade.run(["sh", "-c", f"cat > /tmp/ca.pem <<'END'\n{certificate}END"], timeout_s=60)
    ask = ["wget", "-q", "--ca-certificate=/tmp/ca.pem", "-O", "-"]
    page = blade.run([*ask, "https://headnode/"], timeout_s=60).output
    assert "<title>" in page
    by = {
        base: blade.run([*ask, f"{base}/binhost/blade/canary/Packages"], timeout_s=60).output
        for base in ("https://headnode", "http://headnode:8080")
    }
    assert by["https://headnode"] == by["http://headnode:8080"] != ""
    # And who has another certificate is not believed.
    refused = blade.run(["wget", "-q", "-O", "-", "https://headnode/"], timeout_s=60, check=False)
    assert refused.code == 5  # wget(1): SSL verification failure


def test_an_index_that_the_blade_has_is_a_304(behind_nginx: Rehearsal) -> None:
    before = len(requests(behind_nginx))
    emerge(behind_nginx, "--getbinpkgonly", "--oneshot", "--pretend", PACKAGE)
    assert requests(behind_nginx)[before:] == ["GET /binhost/blade/canary/Packages.gz 304"]


def test_a_bumped_package_is_seen_at_once(behind_nginx: Rehearsal) -> None:
    version = bump(behind_nginx.upstream, PACKAGE)
    for words in (("mirror", "sync"), ("build",), ("publish",)):
        behind_nginx.headnode(*words)
    before = len(requests(behind_nginx))
    emerge(behind_nginx, "--getbinpkgonly", "--oneshot", PACKAGE)
    done = behind_nginx.lab.node("blade01").run(["bladeinfo", "--version"], timeout_s=60)
    assert f"bladeinfo {version}" in done.output
    assert requests(behind_nginx)[before:] == [
        "GET /binhost/blade/canary/Packages.gz 200",
        f"GET /binhost/blade/pool/{PACKAGE}/bladeinfo-{version}-1.gpkg.tar 200",
    ]
