"""58 blades, for real: `make lab58`, and part of `make test-full`."""

import json
from pathlib import Path

import pytest

from headnode import rehearsal

pytestmark = [pytest.mark.lab, pytest.mark.slow]


def test_58_blades_pull_one_generation(tmp_path: Path, tarballs: Path) -> None:
    with rehearsal.running(tmp_path / "lab", 58, cache=tarballs) as running:
        rehearsal.start_headnode(running)
        for words in (("mirror", "sync"), ("build",), ("publish",), ("promote", "--ring", "fleet")):
            running.headnode(*words)
        reports = json.loads(running.headnode("rollout", "run", "--json").output)
        assert len(reports) == 58
        assert {each["result"] for each in reports} == {"updated"}
        for blade in ("blade01", "blade58"):
            assert (
                "bladeinfo 1.0"
                in running.lab.node(blade).run(["bladeinfo", "--version"], timeout_s=60).output
            )
        again = json.loads(running.headnode("rollout", "run", "--json").output)
        assert {(each["result"], each["emerge_started"]) for each in again} == {
            ("unchanged", False)
        }
