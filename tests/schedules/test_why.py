"""`headnode binhost why`: each reason why the real emerge does not take a binary, and said."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from binhost.index import parse_entries, render
from binhost.why import Kind, Verdict
from blades.inventory import all_blades
from config import template
from headnode.errors import PublishError
from schedules.why import asks_for_signature, unsigned, why_once, without_signature

pytestmark = pytest.mark.lab

PACKAGES = ("tool-1", "flagged-1", "nodekeys-1.0", "libgate-1")


@pytest.fixture(scope="module")
def served(world: Any) -> Any:
    """The world with a generation in front of the ring `fleet`, which no gate looked at."""
    move = world.move(*PACKAGES)
    binhost = world.binhost
    binhost.ring("fleet").deploy(
        move.generation,
        move.entries,
        repos=binhost.repos_of(move.generation.snapshots),
        pool_url=binhost.pool_url,
        now=world.now,
        valid=binhost.valid,
        signer=binhost.signer,
    )
    return world


def why(served: Any, atom: str, **options: Any) -> Verdict:
    site = served.site(**options)
    blade = next(each for each in all_blades(site.cluster) if each.ring == "fleet")
    return why_once(site, blade, atom)


def test_what_would_be_taken_is_said_with_its_build(served: Any) -> None:
    verdict = why(served, "app-misc/tool")
    assert verdict.text == ("app-misc/tool would be taken as a binary: app-misc/tool-1, build 1.")
    assert verdict.plan == ("dev-libs/libgate-1", "app-misc/tool-1")


@pytest.mark.parametrize(
    ("atom", "options", "kind", "text"),
    [
        ("app-misc/nope", {}, Kind.VERSION, "The ring has no app-misc/nope."),
        (
            ">=app-misc/tool-3",
            {},
            Kind.VERSION,
            "The ring has no >=app-misc/tool-3; it has app-misc/tool-1:0.",
        ),
        (
            "dev-libs/libgate:0/2",
            {},
            Kind.SLOT,
            "No dev-libs/libgate of the ring has the slot that dev-libs/libgate:0/2 wants; it has "
            "dev-libs/libgate-1:0/1.",
        ),
        (
            "app-misc/flagged",
            {"package_use": ("app-misc/flagged extra",)},
            Kind.USE,
            "app-misc/flagged-1: it was built with other USE flags than the blade has; the blade "
            "wants extra.",
        ),
        (
            "app-misc/flagged[extra]",
            {},
            Kind.USE,
            "app-misc/flagged-1: it was not built with +extra.",
        ),
        (
            "app-misc/flagged[newer]",
            {},
            Kind.IUSE,
            "app-misc/flagged-1: it was built without a USE flag newer.",
        ),
        (
            "app-misc/flagged",
            {"package_accept_keywords": ("app-misc/flagged -amd64",)},
            Kind.KEYWORD,
            "app-misc/flagged-1: none of its keywords is accepted on the blade (accept_keywords).",
        ),
        (
            "app-misc/flagged",
            {"package_license": ("app-misc/flagged -*",)},
            Kind.LICENCE,
            "app-misc/flagged-1: its licence GPL-2+ is not accepted on the blade (accept_license).",
        ),
        (
            "app-misc/flagged",
            {"package_mask": ("app-misc/flagged",)},
            Kind.MASK,
            "app-misc/flagged-1: package.mask masks it on the blade.",
        ),
    ],
)
def test_emerge_does_not_take_it_and_the_reason_is_named(
    served: Any, atom: str, options: dict[str, Any], kind: Kind, text: str
) -> None:
    verdict = why(served, atom, **options)
    assert verdict.taken is None
    assert [(each.kind, each.text) for each in verdict.reasons] == [(kind, text)]
    assert verdict.text == f"{atom} would not be taken as a binary.\n{text}"


@pytest.mark.parametrize(
    ("package", "line", "atom", "kind", "text"),
    [
        (
            "flagged",
            "CHOST: i686-pc-linux-gnu",
            "app-misc/flagged",
            Kind.CHOST,
            "app-misc/flagged-1: it was built for CHOST i686-pc-linux-gnu, which is not the "
            "blade's.",
        ),
        (
            "flagged",
            "EAPI: 99",
            "app-misc/flagged",
            Kind.EAPI,
            "app-misc/flagged-1: the blade's Portage does not know its EAPI 99.",
        ),
        (
            "flagged",
            "KEYWORDS: ~amd64",
            "app-misc/flagged",
            Kind.KEYWORD,
            "app-misc/flagged-1: its keyword ~amd64 is not accepted on the blade "
            "(accept_keywords).",
        ),
        (
            "libgate",
            "SLOT: 0/2",
            "app-misc/tool",
            Kind.SLOT,
            "No dev-libs/libgate of the ring has the slot that dev-libs/libgate:0/1= wants; it has "
            "dev-libs/libgate-1:0/2.",
        ),
    ],
)
def test_what_the_index_says_of_a_binary_can_be_the_reason(
    served: Any, package: str, line: str, atom: str, kind: Kind, text: str
) -> None:
    index = served.binhost.folder / "rings/fleet/current/Packages"
    before, packed = index.read_text(), index.with_suffix(".gz")  # which Portage asks for first
    try:
        index.write_bytes(with_line(before, package, line))
        packed.write_bytes(gzip.compress(index.read_bytes()))
        verdict = why(served, atom)
    finally:
        index.write_text(before)
        packed.write_bytes(gzip.compress(before.encode()))
    assert [(each.kind, each.text) for each in verdict.reasons] == [(kind, text)]
    if package == "libgate":
        assert (verdict.needed, verdict.by) == ("dev-libs/libgate:0/1=", ("app-misc/tool-1",))


def with_line(packages: str, package: str, line: str) -> bytes:
    head, _, body = packages.partition("\n\n")
    key = line.partition(" ")[0]
    entries = {
        name: "\n".join(line if each.startswith(key) else each for each in entry.splitlines())
        if f"/{package}-" in name
        else entry.rstrip("\n")
        for name, entry in parse_entries(body).items()
    }
    header = dict(each.split(": ", 1) for each in head.splitlines())
    content, _ = render(
        {key: value for key, value in header.items() if key not in {"URI", "TIMESTAMP"}},
        [f"{entry}\n" for entry in entries.values()],
        timestamp=int(header["TIMESTAMP"]),
        uri=header["URI"],
    )
    return content


def test_a_package_without_a_signature_is_named_where_the_blade_wants_one(served: Any) -> None:
    assert asks_for_signature("[headnode]\nverify-signature = true\n")
    assert not asks_for_signature("[headnode]\nverify-signature = false\n")
    verdict = why(served, "app-misc/flagged")
    pool = served.binhost.pool
    names = unsigned(pool.folder, pool.entries().values(), verdict.plan)
    assert names == ["app-misc/flagged-1"]
    refused = without_signature(verdict, names)
    assert refused == replace(verdict, taken=None, reasons=refused.reasons)
    assert refused.text == (
        "app-misc/flagged would not be taken as a binary.\n"
        "app-misc/flagged-1: its package is not signed, and the blade wants a signature."
    )


def test_a_ring_without_anything_is_an_error_with_what_to_do(served: Any) -> None:
    site = served.site()
    blade = replace(all_blades(site.cluster)[0], ring="nothing")
    with pytest.raises(PublishError) as error:
        why_once(site, blade, "app-misc/tool")
    assert str(error.value) == (
        "The ring nothing has nothing yet. headnode publish or headnode promote puts a generation "
        "in front of it."
    )


def test_the_command_answers_with_its_exit_code_and_as_json(served: Any, tmp_path: Path) -> None:
    site = served.site()
    config = tmp_path / "cluster.toml"
    cls = site.cluster.classes["blade"]
    config.write_text(
        template.render(
            {
                "state": {"path": str(site.state)},
                "signing": {"mode": "off"},
                "classes": {"blade": {"profile": cls.profile, "rings": dict(cls.rings)}},
            }
        )
    )

    def headnode(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "headnode", "--config", config, "binhost", "why", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    good = headnode("dev-libs/libgate", "--blade", "blade02")
    assert (good.returncode, good.stdout) == (
        0,
        "dev-libs/libgate would be taken as a binary: dev-libs/libgate-1, build 1.\n",
    )
    bad = headnode("app-misc/nope", "--blade", "blade02", "--json")
    assert bad.returncode == 1
    assert json.loads(bad.stdout)["reasons"] == [
        {"kind": "version", "package": "app-misc/nope", "text": "The ring has no app-misc/nope."}
    ]
    several = headnode("app-misc/nope", "--blade", "blade[01-02]")
    assert (several.returncode, several.stderr) == (
        2,
        "headnode: blade[01-02] is more than one blade. Name one with --blade.\n",
    )
