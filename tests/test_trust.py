"""What a blade refuses, and the way back: real emerge, real gpg, against a headnode that lies.

Whoever can answer in the headnode's place serves what he likes: the tests do so by changing what
the lab's headnode has on its disk, and put it back. One lab; the tests tell one story, in order.
"""

import gzip
import io
import json
import os
import re
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from binhost.entry import make_entry
from binhost.index import field, parse_entries, render
from binhost.keys import Keys, gpg
from binhost.signing import Signer
from config.trust import fingerprints
from headnode.files import digests
from headnode.rehearsal import Rehearsal
from mirror.upstream.assemble import bump

pytestmark = pytest.mark.lab

VICTIM = "app-misc/colours"
SEEN_S = 1.5  # the server looks once a second whether a file of the pool is another: none ever is
BLADES = ("blade01", "blade02", "blade03")


def ask(running: Rehearsal, *words: str) -> Any:
    """What a command prints as JSON."""
    return json.loads(running.headnode(*words, "--json").output)


def on(running: Rehearsal, blade: str, *command: str) -> str:
    """What a command prints on a blade."""
    return running.lab.node(blade).run(list(command), timeout_s=300).output.strip()


def pull(running: Rehearsal, nodes: str = "blade01") -> Any:
    """The reports of blades that pull."""
    time.sleep(SEEN_S)
    words = ("rollout", "run", "--nodes", nodes, "--json")
    return json.loads(running.headnode(*words, check=False).output)


def why(running: Rehearsal, blade: str = "blade01") -> str:
    """Why a blade's pull failed: that it did is part of the claim."""
    (report,) = pull(running, blade)
    assert report["result"] == "failed"
    return str(report["error"])


def has(running: Rehearsal, blade: str) -> set[str]:
    """What a blade's /var/db/pkg has, `category/name-version`."""
    found = on(running, blade, "find", "/var/db/pkg", "-mindepth", "2", "-maxdepth", "2")
    return {path.removeprefix("/var/db/pkg/") for path in found.splitlines()}


def configure(running: Rehearsal, *packages: str) -> None:
    """Make these the set @blade."""
    lines = running.config.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("packages = "))
    lines[at] = f"packages = {json.dumps(list(packages))}"
    running.config.write_text("\n".join(lines) + "\n")


def binhost(running: Rehearsal) -> Path:
    return running.lab.folder / "state/binhost/blade"


def current(running: Rehearsal, ring: str = "canary") -> Path:
    """The folder of what a ring has."""
    return (binhost(running) / "rings" / ring / "current").resolve()


def pool_file(running: Rehearsal, package: str = VICTIM) -> Path:
    """A package's newest file in the pool."""
    files = (binhost(running) / "pool" / package).glob("*.gpkg.tar")
    return max(files, key=lambda path: path.stat().st_mtime_ns)


@contextmanager
def changed(*paths: Path) -> Iterator[None]:
    """Files and folders that may be changed in the block, and are as they were after it."""
    kept = {path: path.with_name(f".{path.name}.kept") for path in paths}
    for path, copy in kept.items():
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, copy, symlinks=True)
        else:
            shutil.copy2(path, copy, follow_symlinks=False)
    try:
        yield
    finally:
        for path, copy in kept.items():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            copy.rename(path)


def reindex(running: Rehearsal, name: str, *, source: Path | None = None) -> None:
    """Have the ring's index fit what lies in the pool under `name`, as an attacker would.

    With `source`, that package's content is offered under `name`'s version.
    """
    folder = current(running)
    head, _, body = (folder / "Packages").read_text().partition("\n\n")
    header = dict(line.split(": ", 1) for line in head.splitlines())
    timestamp, uri = int(header.pop("TIMESTAMP")) + 60, header.pop("URI")
    entries = parse_entries(body)
    path = binhost(running) / "pool" / name
    if source is None:
        entries[name], _ = make_entry(path, PurePosixPath(name))
    else:
        shutil.copyfile(source, path)
        for key, value in (("SIZE", path.stat().st_size), *digests(path, "md5", "sha1").items()):
            old = f"{key.upper()}: {field(entries[name], key.upper())}\n"
            entries[name] = entries[name].replace(old, f"{key.upper()}: {value}\n")
    for file, data in zip(
        ("Packages", "Packages.gz"),
        render(header, entries.values(), timestamp=timestamp, uri=uri),
        strict=True,
    ):
        (folder / file).write_bytes(data)
        os.utime(folder / file, (timestamp, timestamp))


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> None:
    """Write a tar anew with each member's content changed, or without it."""
    out = io.BytesIO()
    with tarfile.open(path) as old, tarfile.open(fileobj=out, mode="w", format=old.format) as new:
        for member in old.getmembers():
            file = old.extractfile(member)
            data = change(PurePosixPath(member.name).name, file.read() if file else b"")
            if data is not None:
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
    path.unlink()
    path.write_bytes(out.getvalue())


def unsigned(name: str, data: bytes) -> bytes | None:
    """A member of a package without its signature."""
    if name.endswith(".sig"):
        return None
    if name != "Manifest":
        return data
    text = data.decode().partition("\n\n")[2].partition("-----BEGIN PGP SIGNATURE-----")[0]
    lines = [line for line in text.splitlines() if ".sig " not in line]
    return ("\n".join(lines) + "\n").encode()


def signer(folder: Path) -> Signer:
    """A key of a stranger's, and what signs with it."""
    keys = Keys(folder=folder / "keys", home=folder / "keys/signing")
    keys.make("stranger")
    return Signer.of(keys)


def remove(running: Rehearsal, blade: str, package: str = VICTIM) -> None:
    """Take a package off a blade, if it is there."""
    argv = ["emerge", "-q", "--unmerge", package]
    running.lab.node(blade).run(argv, timeout_s=300, check=False)


def forget(running: Rehearsal, blade: str, *more: str) -> None:
    """Have a blade forget which packages and indices it fetched, and `more`."""
    on(running, blade, "rm", "-rf", "/var/cache/binhost/headnode", "/var/cache/edb", *more)


def forget_pulls(running: Rehearsal, blade: str) -> None:
    """Have a blade forget all that the pull knows of earlier deployments, their trees too."""
    on(running, blade, "headnode-tree", "leave")
    forget(running, blade, "/var/lib/headnode")


def install(running: Rehearsal, package: str = VICTIM) -> tuple[int, str]:
    """Plain emerge of a package on a blade that does not have it; what it says."""
    remove(running, "blade01", package)
    forget(running, "blade01")
    time.sleep(SEEN_S)
    blade = running.lab.node("blade01")
    argv = ["emerge", "--color=n", "--getbinpkgonly", "--oneshot", package]
    done = blade.run(argv, timeout_s=300, check=False)
    assert any(cpv.startswith(package) for cpv in has(running, "blade01")) is (done.code == 0)
    return done.code, done.output + done.errors


def test_what_is_published_is_signed_and_every_blade_takes_it(running: Rehearsal) -> None:
    # What a lab blade makes of each move is tested by itself, and would take most of the time.
    gates = re.compile(r"^gates = \[.*?\]$", re.MULTILINE | re.DOTALL)
    text, count = gates.subn('gates = ["integrity"]', running.config.read_text())
    assert count == 1
    running.config.write_text(text)
    configure(running, "@system", "sys-apps/bladeinfo", VICTIM)
    for words in (("mirror", "sync"), ("build",), ("publish",), ("promote", "--ring", "fleet")):
        running.headnode(*words)
    assert [each["result"] for each in pull(running, "blade[01-03]")] == ["updated"] * 3
    (key,) = ask(running, "keys", "list")
    assert key["signs"]
    assert key["rings"] == ["blade/canary", "blade/fleet"]
    assert (current(running) / "deployment.json.asc").is_file()


def test_plain_emerge_takes_a_package_that_the_headnode_signed(running: Rehearsal) -> None:
    code, _ = install(running)
    assert code == 0


def test_an_unsigned_package_is_refused(running: Rehearsal) -> None:
    path = pool_file(running)
    with changed(path, current(running)):
        rewritten(path, unsigned)
        reindex(running, str(path.relative_to(binhost(running) / "pool")))
        code, said = install(running)
    assert code == 1
    assert "Binary package is not usable (verification failed)" in said
    assert "NODATA" in said


def test_a_tampered_image_is_refused(running: Rehearsal) -> None:
    def tampered(name: str, data: bytes) -> bytes:
        return data + b"\0" if name.startswith("image") and not name.endswith(".sig") else data

    path = pool_file(running)
    with changed(path, current(running)):
        rewritten(path, tampered)
        reindex(running, str(path.relative_to(binhost(running) / "pool")))
        code, said = install(running)
    assert code == 1
    assert "file size mismatched" in said


def test_a_package_signed_by_a_stranger_is_refused(running: Rehearsal, tmp_path: Path) -> None:
    path = pool_file(running)
    stranger = signer(tmp_path)
    with changed(path, current(running)):
        rewritten(path, unsigned)
        stranger.sign([path])
        reindex(running, str(path.relative_to(binhost(running) / "pool")))
        code, said = install(running)
    Keys(folder=tmp_path, home=stranger.home).end_agent()
    assert code == 1
    assert "binpkg signed with at least one unknown key" in said


def test_a_package_signed_by_a_trusted_key_that_has_expired_is_refused(
    running: Rehearsal, tmp_path: Path
) -> None:
    keys = Keys(folder=tmp_path / "keys", home=tmp_path / "keys/signing")
    keys.home.mkdir(parents=True, mode=0o700)
    words = ("--passphrase=", "--quick-generate-key", "brief", "ed25519", "sign", "seconds=8")
    gpg(keys.home, *words)
    keys.trust("brief")
    path, trusted = pool_file(running), "/etc/headnode/keys.asc"
    blade = running.lab.node("blade01")
    before = on(running, "blade01", "cat", trusted)
    with changed(path, current(running)):
        rewritten(path, unsigned)
        Signer.of(keys).sign([path])
        keys.end_agent()
        reindex(running, str(path.relative_to(binhost(running) / "pool")))
        both = f"{before}\n{keys.keyring()}"
        blade.run(["sh", "-c", f"echo '{both}' > {trusted}"], timeout_s=60)
        time.sleep(8)
        code, said = install(running)
    blade.run(["sh", "-c", f"echo '{before}' > {trusted}"], timeout_s=60)
    assert code == 1
    assert "EXPKEYSIG" in said


def test_a_good_signature_under_another_name_is_taken_by_portage_and_refused_by_the_pull(
    running: Rehearsal,
) -> None:
    """Why the pull trusts the deployment's digests: bladeinfo's package offered as colours."""
    path = pool_file(running)
    name = str(path.relative_to(binhost(running) / "pool"))
    with changed(path, current(running)):
        path.unlink()
        reindex(running, name, source=pool_file(running, "sys-apps/bladeinfo"))
        remove(running, "blade01", "sys-apps/bladeinfo")  # else their files would collide
        code, said = install(running)
        assert code == 0, said
        assert "bladeinfo 1.0" in on(running, "blade01", "bladeinfo", "--version")
        remove(running, "blade01")
        forget_pulls(running, "blade01")
        error = why(running)
    assert error.endswith("deployments/1/Packages is not what deployment.json says it is")
    assert pull(running)[0]["result"] == "updated"


def test_a_package_that_was_exchanged_in_the_pool_alone_is_refused_by_its_digest(
    running: Rehearsal,
) -> None:
    path = pool_file(running)
    remove(running, "blade01")
    forget_pulls(running, "blade01")
    with changed(path):
        path.unlink()
        shutil.copyfile(pool_file(running, "sys-apps/bladeinfo"), path)
        error = why(running)
    assert "_checksum_failure_" in error
    assert pull(running)[0]["result"] == "updated"


def test_an_older_deployment_that_is_played_again_is_refused_by_its_number(
    running: Rehearsal,
) -> None:
    bump(running.upstream, "sys-apps/bladeinfo")
    for words in (("mirror", "sync"), ("build",), ("publish",)):
        running.headnode(*words)
    assert pull(running)[0]["changes"] == [
        "-sys-apps/bladeinfo-1.0",
        "+sys-apps/bladeinfo-1.1",
    ]
    link = binhost(running) / "rings/canary/current"
    with changed(link):
        link.unlink()
        link.symlink_to("deployments/1")
        on(running, "blade01", "rm", "-rf", "/var/cache/edb", "/var/lib/headnode/index")
        error = why(running)
    assert error == (
        "the deployment at http://headnode:8080/binhost/blade/canary is number 1, and number 2 "
        "was here before: an old one is played again, or the headnode was restored from a backup"
    )
    assert "sys-apps/bladeinfo-1.1" in has(running, "blade01")


def test_another_rings_deployment_is_refused(running: Rehearsal) -> None:
    link = binhost(running) / "rings/fleet/current"
    with changed(link):
        link.unlink()
        (binhost(running) / "rings/fleet/deployments/9").mkdir()
        for name in ("deployment.json", "deployment.json.asc", "Packages", "generation.json"):
            shutil.copy(
                current(running) / name, binhost(running) / "rings/fleet/deployments/9" / name
            )
        link.symlink_to("deployments/9")
        error = why(running, "blade02")
    shutil.rmtree(binhost(running) / "rings/fleet/deployments/9")
    assert error == (
        "the deployment at http://headnode:8080/binhost/blade/fleet is for the ring canary of "
        "blade, and this blade is in fleet of blade"
    )


@pytest.mark.parametrize("what", ["altered", "stranger", "nobody"])
def test_a_deployment_that_is_not_the_headnodes_is_refused(
    running: Rehearsal, tmp_path: Path, what: str
) -> None:
    folder = current(running)
    says = json.loads((folder / "deployment.json").read_text())
    seal = folder / "deployment.json.asc"
    with changed(folder / "deployment.json", seal):
        (folder / "deployment.json").write_text(json.dumps({**says, "generation": 1}))
        if what == "stranger":
            seal.unlink()
            stranger = signer(tmp_path)
            stranger.seal(folder / "deployment.json")
            Keys(folder=tmp_path, home=stranger.home).end_agent()
        elif what == "nobody":
            seal.write_text("\n")
        error = why(running)
    reason = {
        "altered": "it was altered after it was signed",
        "stranger": "it is signed by a key that this blade does not know",
        "nobody": "it has no signature",
    }[what]
    assert error == (
        "the deployment at http://headnode:8080/binhost/blade/canary is not the headnode's: "
        f"{reason}"
    )


def test_rollback_makes_every_blade_go_back_to_the_older_versions_and_drops_what_is_new(
    running: Rehearsal,
) -> None:
    configure(running, "@system", "sys-apps/bladeinfo", VICTIM, "app-misc/hello")
    for words in (("mirror", "sync"), ("build",), ("publish",), ("promote", "--ring", "fleet")):
        running.headnode(*words)
    pull(running, "blade[01-03]")
    for blade in BLADES:
        assert any(cpv.startswith("app-misc/hello-") for cpv in has(running, blade))
    for ring in ("canary", "fleet"):
        running.headnode("rollback", "--ring", ring, "--to", "1", "--note", "hello is broken")
    reports = pull(running, "blade[01-03]")
    assert [(each["result"], each["error"]) for each in reports] == [("updated", "")] * 3
    for blade in BLADES:
        assert has(running, blade) == {
            "sys-apps/bladeinfo-1.0",
            "dev-libs/libblade-1.0",
            f"{VICTIM}-1.0",
            "sys-apps/nodekeys-1.0",
        }
        assert "bladeinfo 1.0" in on(running, blade, "bladeinfo", "--version")
    plan = on(running, "blade02", "emerge", "-puDN", "@world")
    assert "[binary" not in plan
    assert "[ebuild" not in plan
    assert [each["result"] for each in pull(running, "blade[01-03]")] == ["unchanged"] * 3


def test_forward_again_after_a_rollback(running: Rehearsal) -> None:
    running.headnode("promote", "--ring", "canary")
    assert pull(running)[0]["result"] == "updated"
    assert "sys-apps/bladeinfo-1.1" in has(running, "blade01")


def test_an_index_fetched_before_a_publish_still_finds_every_file_after_it(
    running: Rehearsal,
) -> None:
    """A blade that plans, and merges when its ring has moved on."""
    blade = running.lab.node("blade02")
    remove(running, "blade02")
    forget(running, "blade02")
    on(running, "blade02", "emerge", "--pretend", "--getbinpkgonly", VICTIM)
    configure(running, "@system", "sys-apps/bladeinfo", "app-misc/hello")
    for words in (("build",), ("publish", "--ring", "fleet")):
        running.headnode(*words)
    index = gzip.decompress((current(running, "fleet") / "Packages.gz").read_bytes()).decode()
    assert VICTIM not in index
    # The index that was fetched is the one that counts, as in the midst of a long emerge.
    binrepos = "/etc/portage/binrepos.conf/gentoobinhost.conf"
    blade.run(["sh", "-c", f"echo 'frozen = true' >> {binrepos}"], timeout_s=60)
    on(running, "blade02", "emerge", "-q", "--getbinpkgonly", "--oneshot", VICTIM)
    assert any(cpv.startswith(VICTIM) for cpv in has(running, "blade02"))


def test_a_second_key_is_trusted_before_it_signs(running: Rehearsal) -> None:
    first = ask(running, "keys", "list")[0]["key"]
    added = running.headnode("keys", "add").output
    (second,) = {each["key"] for each in ask(running, "keys", "list")} - {first}
    assert added == f"Blades trust {second} from their ring's next deployment on.\n"
    early = running.headnode("keys", "use", second, check=False)
    assert (early.code, early.errors) == (
        2,
        f"headnode: The blades of the ring canary of blade were not told of {second} yet. "
        "headnode serve renews the deployments within the hour; have the blades pull then. If no "
        "key that they know is left, give every blade its files again after this with --by-hand.\n",
    )
    generations = {"canary": 0, "fleet": 0}
    for ring in generations:
        generations[ring] = json.loads((current(running, ring) / "deployment.json").read_text())[
            "generation"
        ]
        running.headnode("promote", str(generations[ring]), "--ring", ring)  # renewed, not moved
    # blade03 stays off that night; the others are told, and start no emerge for it.
    told = pull(running, "blade01")
    assert [(each["result"], each["emerge_started"]) for each in told] == [("unchanged", False)]
    running.headnode("keys", "use", second)
    bump(running.upstream, "sys-apps/bladeinfo")
    for words in (("mirror", "sync"), ("build",), ("publish",), ("promote", "--ring", "fleet")):
        running.headnode(*words)
    reports = pull(running, "blade01,blade03")
    assert [each["result"] for each in reports] == ["updated", "updated"]
    signed_by = gpg(
        running.lab.folder / "state/keys/verify",
        *("--status-fd=1", "--verify"),
        *(current(running) / name for name in ("deployment.json.asc", "deployment.json")),
    ).output
    assert f"VALIDSIG {first}" in signed_by
    assert f"VALIDSIG {second}" in signed_by


def test_a_deployment_whose_time_is_over_is_refused_and_a_renewed_one_taken(
    running: Rehearsal,
) -> None:
    good = running.config.read_text()
    running.config.write_text(good.replace("valid_days = 14", "valid_days = 0.00005"))
    running.headnode("promote", "1", "--ring", "canary")
    running.config.write_text(good)
    expires = json.loads((current(running) / "deployment.json").read_text())["expires"]
    while datetime.now(UTC) < datetime.fromisoformat(expires):
        pass
    error = why(running)
    assert error.startswith(
        "the deployment at http://headnode:8080/binhost/blade/canary expired on "
    )
    assert error.endswith(" UTC)?")
    renewed = ask(running, "promote", "1", "--ring", "canary")
    assert renewed["moved"]
    assert [(each["result"], each["error"]) for each in pull(running)] == [("updated", "")]


def trusted_by(running: Rehearsal, blade: str) -> list[str]:
    """The keys that a blade's packages are checked against."""
    argv = ("gpg", "--homedir", "/etc/portage/gnupg", "--no-autostart")
    return fingerprints(on(running, blade, *argv, "--list-keys", "--with-colons"))


def test_stolen_keys_are_replaced_and_blades_that_missed_all_of_it_still_follow(
    running: Rehearsal,
) -> None:
    """Both keys lay in one folder. blade02 has not pulled since before there was a second."""
    signs = {each["key"]: each["signs"] for each in ask(running, "keys", "list")}
    (first,) = (key for key in signs if not signs[key])
    (second,) = (key for key in signs if signs[key])
    assert trusted_by(running, "blade02") == [first]
    for key in (second, first):
        running.headnode("keys", "replace", key)
    (third,) = (each["key"] for each in ask(running, "keys", "list"))
    told = pull(running, "blade01,blade03")
    assert [(each["result"], each["emerge_started"]) for each in told] == [("unchanged", False)] * 2
    # It believes the headnode, and none of the packages that the thief could have signed.
    assert "verification failed" in why(running, "blade02")
    for blade in BLADES:
        assert trusted_by(running, blade) == [third]
    folder = current(running)
    seal = folder / "deployment.json.asc"
    with changed(folder / "deployment.json", seal):
        says = json.loads((folder / "deployment.json").read_text())
        (folder / "deployment.json").write_text(json.dumps({**says, "sequence": 999}))
        seal.unlink()
        home = running.lab.folder / "state/keys/signing"
        thief = ("--local-user", f"{first}!", "--local-user", f"{second}!")
        gpg(home, *thief, "--armor", f"--output={seal}", "--detach-sign", seal.with_suffix(""))
        shutil.copytree(folder, folder.with_name("999"), symlinks=True)
        error = why(running)
    shutil.rmtree(folder.with_name("999"))
    assert error.endswith("it is signed by a key that this blade does not know")


def test_packages_that_a_stolen_key_signed_are_built_and_signed_again(running: Rehearsal) -> None:
    for path in (binhost(running) / "pool").rglob("*.gpkg.tar"):
        path.unlink()
    for words in (("build", "--fresh"), ("publish",), ("promote", "--ring", "fleet")):
        running.headnode(*words)
    reports = pull(running, "blade[01-03]")
    assert [(each["result"], each["error"]) for each in reports] == [("updated", "")] * 3
    code, said = install(running, "sys-apps/bladeinfo")
    assert code == 0, said
