"""Where trees come from beside rsync: git and one's own folder; and trees that did not change."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from config.model import Cluster, Repo
from headnode.errors import MirrorError
from headnode.node.running import start_time
from mirror.git import Clone, address, reason
from mirror.guard import TreeError, Waiver
from mirror.md5cache import repos_conf
from mirror.snapshots import Folder
from mirror.status import (
    Running,
    read_progress,
    read_status,
    report,
    staleness,
    tree_time,
    write_progress,
)
from mirror.tree import prune_repo, sync_repo

NOON = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
DAY = timedelta(days=1)

needs_root = pytest.mark.lab


class Git:
    """A git upstream with the files of a folder."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        shutil.rmtree(tree / "metadata/md5-cache")
        (tree / "metadata/timestamp.chk").unlink()
        self.run("init", "--quiet", "--initial-branch=main")
        self.commit()

    @property
    def url(self) -> str:
        return f"git+file://{self.tree}"

    def run(self, *words: str) -> str:
        name = ["-c", "user.name=lab", "-c", "user.email=lab@example.org"]
        argv = ["git", "-C", str(self.tree), *name, *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, *words: str) -> str:
        self.run("add", "--all")
        self.run("commit", "--quiet", "--allow-empty", "--message=change", *words)
        return self.run("rev-parse", "HEAD")


@pytest.fixture
def git(mirrored: Any) -> Git:
    return Git(mirrored.tree)


def files(tree: Path) -> list[str]:
    return sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())


@needs_root
def test_a_git_upstream_is_served_without_its_history_and_with_metadata_made_here(
    mirrored: Any, git: Git
) -> None:
    made = mirrored.sync(git.url)
    assert files(made.path) == [
        "app-misc/hello/hello-1.ebuild",
        "app-misc/pwgen/pwgen-1.ebuild",
        "metadata/layout.conf",
        "metadata/md5-cache/app-misc/hello-1",
        "metadata/md5-cache/app-misc/pwgen-1",
        "profiles/categories",
        "profiles/repo_name",
    ]
    modes = {path.stat().st_mode & 0o777 for path in made.path.rglob("*") if path.is_file()}
    assert modes == {0o644}
    record = read_status(mirrored.state, "lab")
    assert (record.commit, record.own_cache) == (git.run("rev-parse", "HEAD"), True)
    assert record.committed is not None

    again = mirrored.sync(git.url)
    assert (again.changed, again.stamp) == (False, made.stamp)


@needs_root
def test_a_commit_makes_a_snapshot_that_shares_what_is_the_same_metadata_too(
    mirrored: Any, git: Git
) -> None:
    old = mirrored.sync(git.url)
    before = mirrored.served()
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    (mirrored.tree / "app-misc/pwgen/pwgen-1.ebuild").unlink()
    git.commit()
    new = mirrored.sync(git.url)
    assert new.changed
    cache = new.path / "metadata/md5-cache/app-misc"
    assert sorted(path.name for path in cache.iterdir()) == ["hello-1", "hello-2"]
    for shared in ("app-misc/hello/hello-1.ebuild", "metadata/md5-cache/app-misc/hello-1"):
        assert (new.path / shared).samefile(old.path / shared)
    after = mirrored.served()
    assert {name: after[name] for name in before if name != "current"} == {
        name: content for name, content in before.items() if name != "current"
    }
    assert not mirrored.sync(git.url).changed


@needs_root
def test_a_rewritten_history_is_refused_and_can_be_waived(mirrored: Any, git: Git) -> None:
    first = git.commit()
    git.commit()
    mirrored.sync(git.url)
    served = git.run("rev-parse", "HEAD")
    git.run("reset", "--quiet", "--hard", first)
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    forced = git.commit()
    assert mirrored.refused(git.url) == mirrored.said(
        f"its history was rewritten: commit {forced[:12]} does not descend from {served[:12]}, "
        "which is served; `headnode mirror sync --waive rewritten` takes it all the same",
        git.url,
    )
    git.run("reset", "--quiet", "--hard", first)
    assert "its history was rewritten" in mirrored.refused(git.url)
    git.run("reset", "--quiet", "--hard", forced)
    assert mirrored.sync(git.url, waived={Waiver.REWRITTEN}).changed
    git.commit()
    assert not mirrored.sync(git.url).changed  # an empty commit: the same files


@needs_root
def test_a_git_upstream_that_is_not_there_is_refused(mirrored: Any, git: Git) -> None:
    mirrored.sync(git.url)
    git.tree.rename(git.tree.with_name("elsewhere"))
    assert mirrored.refused(git.url, tries=1) == mirrored.said(
        f"git fetch failed: fatal: '{git.tree}' does not appear to be a git repository", git.url
    )


@needs_root
def test_a_branch_that_is_not_there_is_refused_and_one_that_is_is_taken(
    mirrored: Any, git: Git
) -> None:
    mirrored.sync(git.url)
    assert mirrored.refused(git.url, branch="stable", tries=1) == mirrored.said(
        "git fetch failed: fatal: couldn't find remote ref refs/heads/stable", git.url
    )
    git.run("checkout", "--quiet", "-b", "stable")
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    git.commit()
    git.run("checkout", "--quiet", "main")
    assert mirrored.sync(git.url, branch="stable").changed


@needs_root
def test_the_same_checks_hold_for_git(mirrored: Any, git: Git) -> None:
    mirrored.sync(git.url)
    mirrored.put("profiles/repo_name", "other\n")
    git.commit()
    assert mirrored.refused(git.url) == mirrored.said(
        "its profiles/repo_name says 'other', not 'lab'", git.url
    )
    mirrored.put("profiles/repo_name", "lab\n")
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAPI=8\ninherit nonesuch\n")
    git.commit()
    assert mirrored.refused(git.url) == mirrored.said(
        "egencache could make no metadata of 1 ebuilds, such as app-misc/hello-2: Messages for "
        "package app-misc/hello-2::lab:; ERROR: app-misc/hello-2::lab failed (depend phase):; "
        "nonesuch.eclass could not be found by inherit()",
        git.url,
    )


@needs_root
def test_a_fetch_that_was_killed_does_not_stand_in_the_way(mirrored: Any, git: Git) -> None:
    mirrored.sync(git.url)
    clone = Clone(folder=Folder.of(mirrored.state, "lab").path)
    refs = ("refs/headnode/fetched.lock", "refs/headnode/served.lock")
    for lock in ("shallow.lock", "index.lock", "HEAD.lock", *refs):
        (clone.store / lock).touch()
    (clone.checkout / "half").touch()
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    git.commit()
    made = mirrored.sync(git.url)
    assert made.changed
    assert not (made.path / "half").exists()


@pytest.mark.parametrize("which", ["the served commit", "every object"])
@needs_root
def test_a_clone_that_a_power_cut_damaged_is_said_with_what_to_remove(
    mirrored: Any, git: Git, which: str
) -> None:
    mirrored.sync(git.url)
    store = Clone(folder=Folder.of(mirrored.state, "lab").path).store
    served = git.run("rev-parse", "HEAD")
    of_it = f"objects/{served[:2]}/{served[2:]}"
    for damaged in store.glob("objects/??/*" if which == "every object" else of_it):
        damaged.unlink()
        damaged.touch()
    git.commit()
    assert mirrored.refused(git.url, tries=1) == mirrored.said(
        f"its clone is damaged: error: object file {store / of_it} is empty; remove {store}, and "
        "the next sync clones anew",
        git.url,
    )
    shutil.rmtree(store)
    mirrored.sync(git.url)
    assert read_status(mirrored.state, "lab").commit == git.run("rev-parse", "HEAD")


@needs_root
def test_a_clone_that_lacks_what_is_served_is_not_a_rewritten_history(
    mirrored: Any, git: Git
) -> None:
    mirrored.sync(git.url)
    clone = Clone(folder=Folder.of(mirrored.state, "lab").path)
    with pytest.raises(TreeError) as caught:
        clone.descends(git.run("rev-parse", "HEAD"), "0" * 39 + "1")
    assert str(caught.value) == (
        f"its clone is damaged: fatal: Not a valid commit name {'0' * 39}1; remove {clone.store}, "
        "and the next sync clones anew"
    )


def test_git_is_asked_for_the_address_without_our_prefix_and_answers_in_one_line() -> None:
    assert address("git+https://a/b") == "https://a/b"
    assert address("git://a/b") == "git://a/b"
    assert reason("warning: x\nfatal: no  such\nPlease make sure\n") == "fatal: no such"
    assert reason("some words\n") == "some words"
    assert reason("") == "it gave no reason"


@needs_root
def test_one_s_own_folder_is_a_repository_like_the_others(mirrored: Any, tmp_path: Path) -> None:
    own = str(mirrored.tree)
    shutil.rmtree(mirrored.tree / "metadata/md5-cache")
    (mirrored.tree / "metadata/timestamp.chk").unlink()
    first = mirrored.sync(path=own)
    assert (first.path / "metadata/md5-cache/app-misc/hello-1").is_file()
    assert not mirrored.sync(path=own).changed
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    assert mirrored.sync(path=own).changed
    mirrored.tree.rename(tmp_path / "elsewhere")
    assert mirrored.refused(path=own) == mirrored.said(f"the folder {own} (path) is not there", own)


def test_one_s_own_folder_is_compared_whatever_its_stamp_says(mirrored: Any) -> None:
    own = str(mirrored.tree)
    mirrored.sync(path=own)
    mirrored.ebuild("app-misc/hello", "2")
    assert mirrored.sync(path=own).changed


@needs_root
def test_metadata_made_here_is_told_from_upstream_s_though_a_run_was_killed_at_the_flip(
    mirrored: Any, git: Git
) -> None:
    mirrored.sync(git.url)
    mirrored.put("app-misc/hello/hello-2.ebuild", "EAPI=8\n")
    git.commit()
    folder = Folder.of(mirrored.state, "lab")

    def killed(*words: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mirror.tree._settle", killed)
        with pytest.raises(KeyboardInterrupt):
            mirrored.sync(git.url)
    assert len(folder.stamps()) == 2
    assert read_status(mirrored.state, "lab").own_cache
    assert not mirrored.sync(git.url).changed


@needs_root
def test_an_ebuild_that_is_read_sees_nothing_of_the_headnode_s_state(
    mirrored: Any, git: Git, request: pytest.FixtureRequest
) -> None:
    mirrored.state = Path(tempfile.mkdtemp(dir="/var/tmp"))  # nodes have a /tmp of their own
    request.addfinalizer(lambda: shutil.rmtree(mirrored.state))
    secret = mirrored.state / "keys/secret"
    secret.parent.mkdir(parents=True)
    secret.write_text("secret\n")
    text = f'EAPI=8\nDESCRIPTION="read: $(<{secret})"\nSLOT=0\n'
    mirrored.put("app-misc/hello/hello-2.ebuild", text)
    git.commit()
    made = mirrored.sync(git.url)
    assert "secret" not in (made.path / "metadata/md5-cache/app-misc/hello-2").read_text()
    assert not list((mirrored.state / "mirror/egencache").iterdir())


@needs_root
def test_the_metadata_of_an_overlay_is_made_with_its_master_s_eclasses(
    mirrored: Any, tmp_path: Path
) -> None:
    mirrored.put("eclass/shared.eclass", 'DESCRIPTION="shared"\nSLOT=0\n')
    mirrored.sync()
    own = tmp_path / "own"
    mirrored.put("profiles/repo_name", "own\n", tree=own)
    mirrored.put("metadata/layout.conf", "masters = lab\n", tree=own)
    mirrored.put("app-misc/mine/mine-1.ebuild", "EAPI=8\ninherit shared\n", tree=own)
    made = sync_repo(mirrored.state, "own", Repo.model_validate({"path": str(own)}), now=NOON)
    entry = (made.path / "metadata/md5-cache/app-misc/mine-1").read_text()
    assert "DESCRIPTION=shared" in entry.splitlines()


def test_the_main_repository_of_the_node_is_gentoo_or_the_first_master() -> None:
    def main(name: str, others: list[str], masters: list[str]) -> str:
        return repos_conf(name, others, masters).splitlines()[1].removeprefix("main-repo = ")

    assert main("own", ["gentoo", "guru"], ["guru"]) == "gentoo"
    assert main("gentoo", ["guru"], []) == "gentoo"
    assert main("own", ["lab", "other"], ["lab"]) == "lab"
    assert main("own", ["other"], []) == "own"
    assert repos_conf("own", ["lab"], ["lab"]) == (
        "[DEFAULT]\nmain-repo = lab\n\n"
        "[lab]\nlocation = /var/db/repos/lab\nauto-sync = no\n\n"
        "[own]\nlocation = /var/db/repos/own\nauto-sync = no\n"
    )


def test_a_tree_that_was_only_stamped_anew_makes_no_snapshot_and_is_as_fresh(
    mirrored: Any,
) -> None:
    first = mirrored.sync()
    before = mirrored.served()
    for days in (1, 2):
        mirrored.stamp(NOON + days * DAY)
        mirrored.put("metadata/timestamp.x", f"{days}\n")
        again = mirrored.sync()
        assert (again.changed, again.stamp) == (False, first.stamp)
        assert mirrored.served() == before
        assert read_status(mirrored.state, "lab").seen_chk == NOON + days * DAY
    mirrored.stamp(NOON + DAY)
    assert "it went back: metadata/timestamp.chk says 2026-11-23" in mirrored.refused()


def connections(mirrored: Any) -> int:
    """How often the upstream was asked so far."""
    pattern = f"/proc/{mirrored.daemon.process.pid}/cmdline"
    conf = Path(pattern).read_text().split("--config=")[1].partition("\0")[0]
    return Path(conf).with_name("log").read_text().count("rsync on lab/")


def test_an_equal_stamp_or_equal_manifest_entries_ask_for_two_small_files_only(
    mirrored: Any, signers: Any
) -> None:
    trusted, _ = signers
    mirrored.manifests()
    manifest = mirrored.tree / "Manifest"
    text = manifest.read_text()
    trusted.sign(manifest)
    mirrored.sync(openpgp_key=trusted.key)
    asked = connections(mirrored)
    assert not mirrored.sync(openpgp_key=trusted.key).changed
    assert connections(mirrored) == asked + 1
    manifest.write_text(text.replace("TIMESTAMP 20", "TIMESTAMP 21"))
    trusted.sign(manifest)
    mirrored.stamp(NOON + DAY)
    assert not mirrored.sync(openpgp_key=trusted.key).changed
    assert connections(mirrored) == asked + 2


def test_a_fresh_stamp_beside_an_old_signed_manifest_does_not_hide_the_tree_s_age(
    mirrored: Any, signers: Any
) -> None:
    trusted, _ = signers
    mirrored.manifests()
    manifest = mirrored.tree / "Manifest"
    stamp = next(line for line in manifest.read_text().splitlines() if line.startswith("TIMESTAMP"))
    signed = datetime.strptime(stamp, "TIMESTAMP %Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    trusted.sign(manifest)
    mirrored.sync(openpgp_key=trusted.key)
    later = signed + 10 * DAY
    mirrored.stamp(later)
    assert not mirrored.sync(openpgp_key=trusted.key).changed
    values = {"upstreams": [mirrored.url], "openpgp_key": str(trusted.key)}
    cluster = Cluster.model_validate({"mirror": {"repos": {"lab": values}}})
    status = read_status(mirrored.state, "lab")
    assert status.seen_chk == later
    repo = cluster.mirror.repos["lab"]
    known = status.model_copy(update={"last_good": later})
    assert staleness(known, repo, 48, later) == (
        "lab: its upstream signed its tree 10 days ago, and nothing since"
    )
    assert tree_time(status, repo) == signed
    unsigned = repo.model_copy(update={"openpgp_key": None})
    assert staleness(known, unsigned, 48, later) == ""
    assert tree_time(status, unsigned) == later


def test_status_tells_age_size_and_each_upstream(mirrored: Any, closed_port: str) -> None:
    down = f"rsync://{closed_port}/lab"
    made = mirrored.sync(down, mirrored.url)
    cluster = Cluster.model_validate(
        {"mirror": {"repos": {"lab": {"upstreams": [down, mirrored.url]}}}}
    )
    [told] = report(mirrored.state, cluster, NOON + timedelta(hours=3))
    assert (told.repo, told.snapshot, told.age_h, told.warning) == ("lab", made.stamp, 3.0, "")
    assert told.running is None
    assert told.status.size_bytes == sum(
        path.stat().st_size for path in mirrored.tree.rglob("*") if path.is_file()
    )
    assert told.status.received_bytes > 0
    good, bad = told.status.upstreams[mirrored.url], told.status.upstreams[down]
    assert (good.failed, good.last_good) == ("", mirrored.now)
    assert (bad.last_good, bad.last_try) == (None, mirrored.now)
    [later] = report(mirrored.state, cluster, NOON + 3 * DAY)
    assert later.warning == "lab was last synced 71 hours ago"


def test_progress_is_kept_while_a_sync_runs_and_gone_after_it(mirrored: Any) -> None:
    (mirrored.tree / "large").write_bytes(os.urandom(1 << 20))
    seen = []
    sync_repo(
        mirrored.state,
        "lab",
        Repo(upstreams=(mirrored.url,), bwlimit_kib=600),
        now=NOON,
        on_progress=lambda progress: seen.append(read_progress(mirrored.state, "lab")),
    )
    told = [each for each in seen if each]
    assert told[-1].upstream == mirrored.url
    assert 0 <= told[-1].percent <= 100
    assert read_progress(mirrored.state, "lab") is None


def test_the_progress_of_a_sync_that_was_killed_is_not_shown(mirrored: Any) -> None:
    at = {"upstream": "u", "size_bytes": 1, "percent": 2, "rate_bps": 3.0, "eta_s": 4}
    running = Running(**at, pid=os.getpid(), started=start_time(os.getpid()) or 0)
    write_progress(mirrored.state, "lab", running)
    assert read_progress(mirrored.state, "lab") == running
    write_progress(mirrored.state, "lab", running.model_copy(update={"started": 1}))
    assert read_progress(mirrored.state, "lab") is None


def test_a_record_that_cannot_be_read_is_begun_anew(mirrored: Any) -> None:
    mirrored.sync()
    (mirrored.state / "mirror/status/lab.json").write_text("{")
    assert not mirrored.sync().changed
    assert read_status(mirrored.state, "lab").last_good == mirrored.now


def test_old_snapshots_go_but_not_those_in_use_nor_the_newest(mirrored: Any) -> None:
    stamps = []
    for number in range(5):
        mirrored.ebuild("app-misc/hello", str(number + 2))
        mirrored.stamp(NOON + number * DAY)
        stamps.append(mirrored.sync().stamp)
    assert prune_repo(mirrored.state, "lab", {stamps[1]}, 2) == [stamps[0], stamps[2]]
    folder = Folder.of(mirrored.state, "lab")
    assert folder.stamps() == [stamps[1], *stamps[3:]]
    assert sorted(path.name for path in folder.path.iterdir()) == ["current", "lock", "snapshots"]
    assert prune_repo(mirrored.state, "lab", (), 0) == [stamps[1], stamps[3]]
    assert folder.newest() == folder.snapshots / stamps[4]


def test_a_clean_up_that_was_killed_is_finished_by_the_next_sync(mirrored: Any) -> None:
    made = mirrored.sync()
    folder = Folder.of(mirrored.state, "lab")
    (folder.trash / "app-misc").mkdir(parents=True)
    assert mirrored.sync().stamp == made.stamp
    assert not folder.trash.exists()


def test_a_clean_up_that_was_killed_is_finished_by_the_next_clean_up(mirrored: Any) -> None:
    old = mirrored.sync()
    mirrored.ebuild("app-misc/hello", "2")
    mirrored.stamp(NOON + DAY)
    mirrored.sync()
    folder = Folder.of(mirrored.state, "lab")
    (folder.trash / "app-misc").mkdir(parents=True)
    assert prune_repo(mirrored.state, "lab", (), 1) == [old.stamp]
    assert not folder.trash.exists()


def test_what_has_no_stamp_for_a_name_is_no_snapshot(mirrored: Any) -> None:
    made = mirrored.sync()
    folder = Folder.of(mirrored.state, "lab")
    (folder.snapshots / "lost+found").mkdir()
    assert folder.stamps() == [made.stamp]
    assert mirrored.sync().stamp == made.stamp
    assert prune_repo(mirrored.state, "lab", (), 0) == []
    assert folder.current.readlink() == Path("snapshots") / made.stamp


def test_a_first_sync_without_a_good_upstream_leaves_nothing_in_front(
    mirrored: Any, closed_port: str
) -> None:
    with pytest.raises(MirrorError, match=r"could be synced; there is no older tree\."):
        mirrored.sync(f"rsync://{closed_port}/lab", tries=1)
    assert Folder.of(mirrored.state, "lab").newest() is None
