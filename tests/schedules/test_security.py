"""`headnode security` against real glsa-check(1), asked in a node that has the packages."""

import json
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from binhost import builder
from binhost.advisories import Advisory, Unreadable, advisories, news
from blades.inventory import all_blades
from config.template import render
from headnode.cli import run
from schedules.cycle import build_once, newest_set
from schedules.ledger.ledger import Ledger
from schedules.ledger.recorder import Recorder
from schedules.moving import publish_once
from schedules.rollout import BladeReport, Result
from schedules.site import Site

GLSA = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE glsa SYSTEM "http://www.gentoo.org/dtd/glsa.dtd">
<glsa id="{name}">
<title>{package}: it can be
   broken into</title><synopsis>s</synopsis>
<product type="ebuild">x</product>
<announced>2026-01-01</announced><revised count="01">2026-01-01</revised>
<access>remote</access>
<affected><package name="{package}" auto="yes" arch="{arch}">{ranges}</package></affected>
<background><p>b</p></background><description><p>d</p></description>
<impact type="{severity}"><p>i</p></impact><workaround><p>w</p></workaround>
<resolution><p>r</p></resolution><references></references>
</glsa>
"""
SAFE, BAD = "<unaffected range='{0}'>{1}</unaffected>", "<vulnerable range='{0}'>{1}</vulnerable>"
NEWS = """Title: {title}
Author: The tests <tests@blades.example>
Posted: 2026-01-0{day}
Revision: 1
News-Item-Format: 2.0
{wants}

{title}, said at length.

Twice.
"""
GLSAS = {
    "202601-01": ("app-misc/tool", "*", SAFE.format("ge", 2) + BAD.format("lt", 2), "high"),
    "202601-02": ("app-misc/tool", "*", SAFE.format("ge", 1) + BAD.format("lt", 1), "high"),
    "202601-03": ("dev-libs/libgate", "amd64", BAD.format("le", 9), "normal"),
    "202601-04": ("dev-libs/libgate", "sparc", BAD.format("le", 9), "normal"),
    "202601-05": ("app-misc/oneway", "*", BAD.format("rle", "1-r3"), "low"),
    "202601-06": ("app-misc/not-here", "*", BAD.format("le", 9), "low"),
}


def write_notices(tree: Path) -> None:
    """Advisories and news into a tree's metadata."""
    folder = tree / "metadata/glsa"
    folder.mkdir(parents=True)
    for name, (package, arch, ranges, severity) in GLSAS.items():
        text = GLSA.format(name=name, package=package, arch=arch, ranges=ranges, severity=severity)
        (folder / f"glsa-{name}.xml").write_text(text)
    for day, (title, wants) in enumerate(
        (
            ("A tool for all", "Display-If-Installed: <app-misc/tool-2"),
            ("A tool for none", "Display-If-Installed: >app-misc/tool-2"),
            ("Another profile", "Display-If-Profile: lab/arm64"),
        ),
        1,
    ):
        place = tree / f"metadata/news/2026-01-0{day}-item"
        place.mkdir(parents=True)
        text = NEWS.format(title=title, day=day, wants=wants)
        (place / f"{place.name}.en.txt").write_text(text)


@pytest.fixture(scope="module")
def site(world: Any, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A headnode of its own that has built and published the tests' first set of packages."""
    state = tmp_path_factory.mktemp("security") / "state"
    cluster = world.site({"gates": ()}).cluster
    theirs = cluster.model_dump(mode="json", exclude_unset=True)
    made = Site(
        cluster=type(cluster).model_validate(
            {**theirs, "state": {"path": str(state), "reserve_mib": 0}}
        )
    )
    shutil.copytree(world.state / "mirror", state / "mirror", symlinks=True)
    write_notices(tree_of(made))
    build_once(made, "blade", watch=world.notes())
    publish_once(made, "blade", None, now=datetime.now(UTC), watch=world.notes())
    return made


def tree_of(site: Site) -> Path:
    return site.repos_of(newest_set(site))["gentoo"].resolve()


def test_advisories_are_what_glsa_check_says(site: Site) -> None:
    shop = site.workshop("blade", newest_set(site))
    with builder.running(shop) as node:
        listed = node.run(["ls", "/var/db/pkg/app-misc", "/var/db/pkg/dev-libs"], timeout_s=60)
        there = set(listed.output.split())
        portage = ("PORTAGE_OVERRIDE_EPREFIX=", "PORTAGE_USERNAME=root", "PORTAGE_GRPNAME=root")
        argv = ["env", *portage, f"{sys.prefix}/bin/glsa-check", "--nocolor", "--test", "all"]
        said = node.run(argv, timeout_s=120, check=False)
    installed = {"app-misc/tool-1", "app-misc/oneway-1", "dev-libs/libgate-1"}
    assert {name.partition("/")[2] for name in installed} <= there
    slots = dict.fromkeys(installed, "0")
    ours = [each.name for each in advisories(tree_of(site), slots, "amd64")]
    assert ours == ["202601-05", "202601-03", "202601-01"]
    theirs = set(said.output.split()) & GLSAS.keys()
    assert sorted(ours) == sorted(theirs)


def test_an_advisory_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "metadata/glsa"
    folder.mkdir(parents=True)
    (folder / "glsa-202601-09.xml").write_text('<glsa><package name="a/b">')
    [found] = advisories(tmp_path, {"a/b-1": "0"}, "amd64")
    assert isinstance(found, Unreadable)
    assert found.name == "202601-09"


def test_news_is_for_those_who_have_what_it_is_about(tmp_path: Path) -> None:
    write_notices(tmp_path)
    titles = [
        [each.title for each in news(tmp_path, {cpv: "0"}, "amd64", "lab/amd64")]
        for cpv in ("app-misc/tool-1", "app-misc/tool-2", "app-misc/tool-3")
    ]
    assert titles == [["A tool for all"], [], ["A tool for none"]]


def test_the_command_says_what_blades_have_and_news_once(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "cluster.toml"
    config.write_text(render(site.cluster.model_dump(mode="json", exclude_unset=True)))
    elog = site.binhost("blade").build_folder / "logs/elog"
    shutil.rmtree(elog)  # what the tests' own packages said
    elog.mkdir()
    (elog / "app-misc:tool-1:20260101-000000.log").write_text("WARN: postinst\nMind the tool.\n")
    (elog / "app-misc:gone-1:20260101-000000.log").write_text("WARN: postinst\nGone.\n")

    blade, moment = all_blades(site.cluster)[0], datetime.now(UTC)
    with Ledger.of(site) as ledger, Recorder(ledger) as recorder:
        has = BladeReport(blade=blade.name, ring=blade.ring, result=Result.UPDATED, generation=1)
        recorder.pulled(has, moment)

    assert run(["--config", str(config), "security", "--read"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in out[:4]] == [
        "advisory severity package generation rings blades fixed in title",
        f"GLSA-202601-05 low app-misc/oneway-1 1 canary {blade.name} nothing yet "
        "app-misc/oneway: it can be broken into",
        f"GLSA-202601-03 normal dev-libs/libgate-1 1 canary {blade.name} nothing yet "
        "dev-libs/libgate: it can be broken into",
        f"GLSA-202601-01 high app-misc/tool-1 1 canary {blade.name} >=app-misc/tool-2 "
        "app-misc/tool: it can be broken into",
    ]
    assert out[4:] == [
        "",
        "News of 2026-01-01: A tool for all",
        "",
        "A tool for all, said at length.",
        "",
        "Twice.",
        "",
        "app-misc/tool-1 said when it was built:",
        "",
        "WARN: postinst",
        "Mind the tool.",
        "",
        "headnode security --read has these count as read.",
    ]

    assert run(["--config", str(config), "security", "--json"]) == 1
    again = json.loads(capsys.readouterr().out)
    assert (again["news"], again["messages"], len(again["exposures"])) == ([], [], 3)
    assert Advisory(**{**again["exposures"][0]["advisory"]}).name == "202601-05"
