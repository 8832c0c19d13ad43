"""Git upstreams: fetched shallow into a clone of our own, checked out beside the served tree.

::

    <state>/mirror/repos/<repo>/git/       the clone, without a work tree of its own
    <state>/mirror/repos/<repo>/checkout/  its files at the commit that was fetched last

The first fetch takes one commit; later ones take what came since, so that it can be told whether
the new commit descends from the one that is served (`refs/headnode/served`). A checkout rewrites
only the files that changed, so that the others stay hard links from snapshot to snapshot.

Refused: a prompt for a password, hooks.

Source: git-fetch(1), gitrepository-layout(5), git-config(1).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from headnode.errors import CommandError
from headnode.files import remove_tree
from headnode.process import Completed, require, run
from mirror.guard import TreeError

SERVED = "refs/headnode/served"
FETCHED = "refs/headnode/fetched"
LOCAL_S = 600.0
YES_OR_NO = (0, 1)  # git's exit codes where it is asked something; any other: it could not tell
DAMAGED = re.compile(r"is empty|corrupt|bad object|unable to (read|parse)|necessary objects")
ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")  # its locks are then nobody's
UNATTENDED = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "true",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oServerAliveInterval=15 -oServerAliveCountMax=4",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """The clone of one repository, in the repository's folder."""

    folder: Path

    @property
    def store(self) -> Path:
        """Git's own files."""
        return self.folder / "git"

    @property
    def checkout(self) -> Path:
        """The files of the fetched commit."""
        return self.folder / "checkout"

    def fetch(self, upstream: str, branch: str, *, stall_s: float, timeout_s: float) -> str:
        """Fetch the newest commit of a branch (empty: upstream's HEAD), and give its name.

        Raises:
            TreeError: upstream does not answer, or has no such branch, or the clone is damaged; in
                git's words.
            EnvironmentLacksError: there is no git.
        """
        require("git")
        self._prepare()
        slow = ("-c", "http.lowSpeedLimit=1", "-c", f"http.lowSpeedTime={max(1, round(stall_s))}")
        depth = () if self.commit(SERVED) else ("--depth=1",)
        spec = f"+{f'refs/heads/{branch}' if branch else 'HEAD'}:{FETCHED}"
        argv = [*slow, "fetch", "--no-tags", "--quiet", "--force", *depth, "--", address(upstream)]
        try:
            done = self._git(*argv, spec, timeout_s=timeout_s)
        except CommandError as error:
            raise TreeError(f"it took longer than {timeout_s:.0f} s", passing=True) from error
        if done.code:
            if DAMAGED.search(done.errors):
                raise self._damaged(done)
            raise TreeError(f"git fetch failed: {reason(done.errors)}", passing=True)
        return self.commit(FETCHED)

    def commit(self, ref: str) -> str:
        """The commit that a name stands for, or empty.

        Raises:
            TreeError: the clone is damaged.
        """
        if not self.store.is_dir():
            return ""
        done = self._git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        if done.code not in YES_OR_NO:
            raise self._damaged(done)
        return done.output.strip()

    def descends(self, commit: str, before: str) -> bool:
        """Whether `commit` has `before` among its ancestors.

        Raises:
            TreeError: the clone is damaged, so that it cannot be told.
        """
        done = self._git("merge-base", "--is-ancestor", before, commit)
        if done.code not in YES_OR_NO:
            raise self._damaged(done)
        return done.code == 0

    def time(self, commit: str) -> datetime:
        """When a commit was made, UTC."""
        said = self._git("show", "--no-patch", "--format=%ct", commit, check=True).output
        return datetime.fromtimestamp(int(said), UTC)

    def check_out(self, commit: str) -> Path:
        """Bring the checkout to `commit`, and give its folder.

        What a killed run left (a lock, half a file) is cleared first.
        """
        (self.store / "index.lock").unlink(missing_ok=True)
        self.checkout.mkdir(exist_ok=True)
        tree = ("--work-tree", str(self.checkout))
        self._git(*tree, "checkout", "--quiet", "--force", "--detach", commit, check=True)
        self._git(*tree, "clean", "--quiet", "-ffdx", check=True)
        return self.checkout

    def mark_served(self, commit: str) -> None:
        """Remember the commit whose tree is in front now."""
        self._git("update-ref", SERVED, commit, check=True)

    def _damaged(self, done: Completed) -> TreeError:
        """The error of a clone that git cannot read.

        It is not cloned anew by itself: a new clone has not the served commit, by which alone it
        can be told whether upstream's history was rewritten.
        """
        return TreeError(
            f"its clone is damaged: {reason(done.errors)}; remove {self.store}, and the next sync "
            "clones anew"
        )

    def _prepare(self) -> None:
        if not (self.store / "HEAD").is_file():
            remove_tree(self.store)
            self._git("init", "--quiet", "--bare", str(self.store), within=False, check=True)
        # Of a git that was killed, or lost its power: whoever syncs holds the repository's lock.
        tops = (*self.store.glob("*.lock"), *self.store.glob("objects/*.lock"))
        for lock in (*tops, *(self.store / "refs").rglob("*.lock")):
            lock.unlink(missing_ok=True)

    def _git(
        self,
        *words: str,
        timeout_s: float = LOCAL_S,
        within: bool = True,
        check: bool = False,
    ) -> Completed:
        where = ("--git-dir", str(self.store)) if within else ()
        settings = (
            *("-c", "core.hooksPath=/dev/null", "-c", "gc.autoDetach=false"),
            *("-c", "core.fsync=all"),  # loose objects too, which a power cut leaves empty
        )
        return run(
            [*ENDS_WITH_US, "git", *where, *settings, *words],
            timeout_s=timeout_s,
            check=check,
            env=UNATTENDED,
            cwd=None if not within else self.store,
            remedy=f"If it stays, remove {self.store}: the next sync clones anew.",
        )


def address(upstream: str) -> str:
    """What git is given for an upstream: git+https://host/path is https://host/path. Pure."""
    return upstream.removeprefix("git+")


def reason(said: str) -> str:
    """Why git failed, on one line: its own `fatal:` or `error:` words. Pure."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:"))]
    return " ".join((fatal or lines[-1:] or ["it gave no reason"])[0].split())


def is_git(upstream: str) -> bool:
    """Whether an upstream's address is one of git's. Pure."""
    return upstream.startswith(("git:", "git+"))
