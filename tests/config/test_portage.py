import configparser
import os
from pathlib import Path
from typing import Any

import pytest
from portage.util import getconfig, grabfile

from config.model import Cluster
from config.portage import (
    BUILDER_FEATURES,
    BUILDER_POOL_INDEX,
    HEADER,
    Rendered,
    blade_files,
    builder_files,
    http_url,
    module_name,
    ring_url,
    rsync_url,
)

KEYRING = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
CLASS = {
    "chost": "x86_64-pc-linux-gnu",
    "use": "threads -X",
    "accept_keywords": "~amd64",
    "make_conf": {"VIDEO_CARDS": "", "L10N": "de fr", "FEATURES": "nodoc -buildpkg news"},
    "package_use": ["net-misc/curl http2 -ldap"],
    "package_mask": [">=dev-lang/python-3.14"],
    "rings": {"canary": "blade01", "fleet": "blade[02-04]"},
    "tree": "rsync",
}
CLUSTER = Cluster.model_validate(
    {
        "serve": {"host": "head.example", "http_port": 8081, "rsync_port": 8731},
        "mirror": {
            "repos": {
                "gentoo": {"upstreams": ["rsync://rsync.gentoo.org/gentoo-portage"]},
                "site": {"upstreams": ["rsync://site.example/site"]},
            }
        },
        "classes": {"blade": CLASS, "plain": {"rings": {"all": "plain1"}}},
    }
)
ATOMS = ["sys-apps/b", "app-misc/a"]


@pytest.fixture
def blade() -> Rendered:
    return blade_files(CLUSTER, "blade03", ATOMS, KEYRING)


@pytest.fixture
def builder() -> Rendered:
    return builder_files(CLUSTER, "blade", ATOMS, jobs=5, keyring=KEYRING)


def variables(rendered: Rendered, folder: Path) -> dict[str, str]:
    """make.conf as Portage itself reads it."""
    path = folder / "make.conf"
    path.write_text(rendered.files["/etc/portage/make.conf"])
    found: Any = getconfig(str(path), expand=True, allow_sourcing=True)
    return dict(found)


def sections(rendered: Rendered, name: str) -> dict[str, dict[str, str]]:
    """An ini file, as strictly as Python reads it."""
    parser = configparser.ConfigParser(default_section="none", interpolation=None, strict=True)
    parser.read_string(rendered.files[f"/etc/portage/{name}"])
    return {section: dict(parser[section]) for section in parser.sections()}


def test_a_blades_make_conf_is_what_portage_reads(blade: Rendered, tmp_path: Path) -> None:
    assert variables(blade, tmp_path) == {
        "CHOST": "x86_64-pc-linux-gnu",
        "CFLAGS": "-O2 -pipe -march=x86-64-v2",
        "CXXFLAGS": "-O2 -pipe -march=x86-64-v2",  # expanded from ${CFLAGS}
        "LDFLAGS": "-Wl,-O1 -Wl,--as-needed",
        "USE": "threads -X",
        "ACCEPT_KEYWORDS": "~amd64",
        "ACCEPT_LICENSE": "@FREE",
        "VIDEO_CARDS": "",  # empty is a value: the profile's is not wanted
        "L10N": "de fr",
        "DISTDIR": "/var/cache/distfiles",
        "PKGDIR": "/var/cache/binpkgs",
        "BINPKG_FORMAT": "gpkg",
        "FEATURES": "nodoc -buildpkg news getbinpkg binpkg-multi-instance parallel-fetch -news "
        "binpkg-request-signature",
        "PORTAGE_TRUST_HELPER": "/usr/local/sbin/headnode-trust",
        "GENTOO_MIRRORS": "http://head.example:8081/",
        "EMERGE_DEFAULT_OPTS": "--getbinpkgonly --binpkg-respect-use=y --with-bdeps=n",
    }


def test_an_option_that_is_not_set_is_left_to_the_profile(tmp_path: Path) -> None:
    found = variables(blade_files(CLUSTER, "plain1", (), None), tmp_path)
    assert "USE" not in found
    assert "ACCEPT_KEYWORDS" not in found
    assert found["FEATURES"] == "getbinpkg binpkg-multi-instance parallel-fetch -news"


def test_without_keys_nothing_is_checked_and_no_helper_is_run(tmp_path: Path) -> None:
    plain = blade_files(CLUSTER, "plain1", (), None)
    assert variables(plain, tmp_path)["PORTAGE_TRUST_HELPER"] == ""
    assert sections(plain, "binrepos.conf/gentoobinhost.conf")["headnode"]["verify-signature"] == (
        "false"
    )
    assert not [path for path in plain.files if "trust" in path or "keys" in path]


def test_the_builder_checks_what_comes_from_the_pool_and_holds_no_secret(builder: Rendered) -> None:
    pool = sections(builder, "binrepos.conf/gentoobinhost.conf")["pool"]
    assert pool["verify-signature"] == "true"
    assert builder.files["/etc/headnode/keys.asc"] == KEYRING
    assert not [text for text in builder.files.values() if "PRIVATE" in text]


def test_a_blade_takes_packages_from_its_ring_alone(blade: Rendered) -> None:
    assert sections(blade, "binrepos.conf/gentoobinhost.conf") == {
        "headnode": {
            "priority": "9999",
            "sync-uri": "http://head.example:8081/binhost/blade/fleet",
            "location": "/var/cache/binhost/headnode",
            "verify-signature": "true",
        }
    }
    canary = blade_files(CLUSTER, "blade01", ATOMS, KEYRING)
    assert sections(canary, "binrepos.conf/gentoobinhost.conf")["headnode"]["sync-uri"] == (
        "http://head.example:8081/binhost/blade/canary"
    )


def test_a_blade_syncs_what_its_rings_generation_was_built_from(blade: Rendered) -> None:
    own = {"sync-type": "rsync", "auto-sync": "yes", "sync-rsync-verify-metamanifest": "no"}
    assert sections(blade, "repos.conf/gentoo.conf") == {
        "DEFAULT": {"main-repo": "gentoo"},
        "gentoo": {
            "location": "/var/db/repos/gentoo",
            "sync-uri": "rsync://head.example:8731/blade-fleet-gentoo",
            **own,
        },
        "site": {
            "location": "/var/db/repos/site",
            "sync-uri": "rsync://head.example:8731/blade-fleet-site",
            **own,
        },
    }


def test_a_blade_that_is_given_images_syncs_nothing_itself() -> None:
    assert sections(blade_files(CLUSTER, "plain1", (), None), "repos.conf/gentoo.conf") == {
        "DEFAULT": {"main-repo": "gentoo"},
        "gentoo": {"location": "/var/db/repos/gentoo", "auto-sync": "no"},
        "site": {"location": "/var/db/repos/site", "auto-sync": "no"},
    }


def test_the_addresses_are_those_of_the_contract() -> None:
    assert ring_url(CLUSTER, "blade", "canary") == http_url(CLUSTER, "/binhost/blade/canary")
    assert http_url(CLUSTER, "binhost/blade/pool") == (
        "http://head.example:8081/binhost/blade/pool"
    )
    assert rsync_url(CLUSTER, module_name("blade", "fleet", "gentoo")) == (
        "rsync://head.example:8731/blade-fleet-gentoo"
    )


@pytest.mark.parametrize("host", ["fd00::1", "[fd00::1]"])
def test_an_ipv6_address_is_in_brackets_where_blades_are_given_it(host: str) -> None:
    cluster = Cluster.model_validate({**CLUSTER.model_dump(), "serve": {"host": host}})
    assert cluster.serve.host == "fd00::1"
    assert http_url(cluster, "distfiles") == "http://[fd00::1]:8080/distfiles"
    assert rsync_url(cluster, "gentoo") == "rsync://[fd00::1]:8730/gentoo"


class Settings(dict[str, str]):
    """What Portage's loaders ask of its configuration."""

    local_config = True


def test_portage_itself_reads_the_binrepos_and_repos_conf(blade: Rendered, tmp_path: Path) -> None:
    from portage.binrepo.config import BinRepoConfigLoader
    from portage.repository.config import RepoConfigLoader

    for name in ("binrepos.conf/gentoobinhost.conf", "repos.conf/gentoo.conf"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(blade.files[f"/etc/portage/{name}"])
    settings = Settings(EROOT="/", EPREFIX="", PORTAGE_CONFIGROOT="/", ROOT="/")
    binrepos = tmp_path / "binrepos.conf/gentoobinhost.conf"
    (found,) = BinRepoConfigLoader([str(binrepos)], settings).values()
    assert found.sync_uri == "http://head.example:8081/binhost/blade/fleet"
    assert found.verify_signature is True
    (tmp_path / "tree/profiles").mkdir(parents=True)
    (tmp_path / "tree/profiles/repo_name").write_text("gentoo\n")
    (tmp_path / "tree/metadata").mkdir()
    (tmp_path / "tree/metadata/layout.conf").write_text("masters =\n")
    conf = tmp_path / "repos.conf/gentoo.conf"
    conf.write_text(conf.read_text().replace("/var/db/repos/gentoo", f"{tmp_path}/tree"))
    repos = RepoConfigLoader([str(conf)], settings)
    assert repos.mainRepo().name == "gentoo"
    assert repos["gentoo"].sync_uri == "rsync://head.example:8731/blade-fleet-gentoo"
    assert repos["gentoo"].sync_type == "rsync"


def test_the_class_files_are_the_same_on_both_sides(blade: Rendered, builder: Rendered) -> None:
    of_class = [
        "/etc/portage/package.use/headnode",
        "/etc/portage/package.accept_keywords/headnode",
        "/etc/portage/package.license/headnode",
        "/etc/portage/package.mask/headnode",
        "/etc/portage/sets/blade",
    ]
    assert {name: blade.files[name] for name in of_class} == {
        name: builder.files[name] for name in of_class
    }
    assert blade.links == builder.links
    assert blade.files["/etc/portage/sets/blade"] == "app-misc/a\nsys-apps/b\n"
    use = blade.files["/etc/portage/package.use/headnode"]
    assert use == f"{HEADER}net-misc/curl http2 -ldap\n"


def test_the_lines_of_a_class_are_what_portage_reads(blade: Rendered, tmp_path: Path) -> None:
    path = tmp_path / "package.mask"
    path.write_text(blade.files["/etc/portage/package.mask/headnode"])
    assert grabfile(str(path)) == [">=dev-lang/python-3.14"]


def test_binaries_fit_since_flags_are_the_same_on_both_sides(
    blade: Rendered, builder: Rendered, tmp_path: Path
) -> None:
    apart = {"FEATURES", "GENTOO_MIRRORS", "EMERGE_DEFAULT_OPTS", "MAKEOPTS"}
    apart |= {"PORTAGE_LOGDIR", "PORTAGE_ELOG_SYSTEM"}
    ours, theirs = variables(blade, tmp_path), variables(builder, tmp_path)
    assert {k: v for k, v in ours.items() if k not in apart} == {
        k: v for k, v in theirs.items() if k not in apart
    }


def test_the_profile_is_a_link_into_the_main_repository(blade: Rendered, tmp_path: Path) -> None:
    ((link, target),) = blade.links.items()
    assert link == "/etc/portage/make.profile"
    assert os.path.normpath(Path(link).parent / target) == (
        "/var/db/repos/gentoo/profiles/default/linux/amd64/23.0"
    )


def test_the_builder_fetches_nothing_over_the_network(builder: Rendered, tmp_path: Path) -> None:
    found = variables(builder, tmp_path)
    assert found["GENTOO_MIRRORS"] == "/var/cache/headnode/distfiles"
    assert found["MAKEOPTS"] == "-j5 -l6"
    assert "EMERGE_DEFAULT_OPTS" not in found
    assert sections(builder, "repos.conf/gentoo.conf") == {
        "DEFAULT": {"main-repo": "gentoo"},
        "gentoo": {"location": "/var/db/repos/gentoo", "auto-sync": "no"},
        "site": {"location": "/var/db/repos/site", "auto-sync": "no"},
    }
    pool = sections(builder, "binrepos.conf/gentoobinhost.conf")["pool"]
    assert pool["sync-uri"] == f"file://{BUILDER_POOL_INDEX}"


def test_the_builder_builds_packages_whatever_features_a_class_has(
    builder: Rendered, tmp_path: Path
) -> None:
    features = variables(builder, tmp_path)["FEATURES"]
    assert features == f"nodoc -buildpkg news {BUILDER_FEATURES}"  # the last word counts
    for needed in ("buildpkg", "binpkg-multi-instance", "-binpkg-signing"):
        assert needed in BUILDER_FEATURES.split()


def test_a_blade_of_no_ring_has_no_files() -> None:
    with pytest.raises(ValueError, match=r"^blade99 is in no ring$"):
        blade_files(CLUSTER, "blade99", ATOMS, None)
