"""What Portage reads on a blade and in the builder, rendered from cluster.toml. Pure.

A blade's binaries fit because both sides come from one `Class`: the same profile, flags, USE,
keywords and licences. Only FEATURES and where packages come from differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from config.model import Class, Cluster, TreeKind

ETC = "/etc/portage"
PATCHES = f"{ETC}/patches"
NO_PATCHES: Mapping[str, str] = MappingProxyType({})
KEYS_PATH = "/etc/headnode/keys.asc"
TRUST_PATH = "/usr/local/sbin/headnode-trust"
SET_PATH = f"{ETC}/sets/blade"
REPOS = "/var/db/repos"
# The files that a stage3 and the handbook have in these folders: ours take their place, so that
# nothing else is asked for packages or trees.
BINREPOS = f"{ETC}/binrepos.conf/gentoobinhost.conf"
REPOS_CONF = f"{ETC}/repos.conf/gentoo.conf"
PKGDIR = "/var/cache/binpkgs"
DISTDIR = "/var/cache/distfiles"
LOGDIR = "/var/log/portage"
RUN = "/run/portage"  # PORTAGE_RUN_PATH of portage.const
BASHRC = f"{ETC}/bashrc"
# Inside the builder: the mirror's distfiles (GLEP 75), which Portage takes as a local mirror, and
# an index of the pool, so that what was built once is not built again.
BUILDER_MIRROR = "/var/cache/headnode/distfiles"
BUILDER_POOL = "/var/cache/headnode/pool"
BUILDER_POOL_INDEX = "/var/cache/headnode/index"

# -pkgdir-index-trusted (it is on by default): publish takes packages out of PKGDIR, and a killed
# emerge leaves some that its index does not name, so the files are what counts.
# observability (Portage 3.0.82; older ones ignore it): phases, for the status page.
BUILDER_FEATURES = (
    "buildpkg binpkg-multi-instance observability -news -binpkg-signing -pkgdir-index-trusted"
)

HEADER = "# Written by headnode from cluster.toml: changes here are lost. See docs/options.md.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Files (absolute path on the node -> text) and symlinks (path -> target)."""

    files: Mapping[str, str]
    links: Mapping[str, str] = field(default_factory=dict)


def is_program(path: str) -> bool:
    """Whether the file at `path` on a node is to be executable. Pure."""
    return PurePosixPath(path).parent.name in ("bin", "local.d", "sbin")


def http_url(cluster: Cluster, path: str) -> str:
    """The address of `path` on the headnode, as blades see it."""
    return f"http://{cluster.serve.address}:{cluster.serve.http_port}/{path.lstrip('/')}"


def rsync_url(cluster: Cluster, module: str) -> str:
    """The address of an rsync module of the headnode, as blades see it."""
    return f"rsync://{cluster.serve.address}:{cluster.serve.rsync_port}/{module}"


def ring_url(cluster: Cluster, class_name: str, ring: str) -> str:
    """The binhost address of a ring: its `Packages` lies directly below."""
    return http_url(cluster, f"binhost/{class_name}/{ring}")


def module_name(class_name: str, ring: str, repo: str) -> str:
    """The rsync module with the tree that a ring's packages were built from."""
    return f"{class_name}-{ring}-{repo}"


def _assignments(variables: Mapping[str, str]) -> str:
    return HEADER + "".join(f'{name}="{value}"\n' for name, value in variables.items())


def _ini(sections: Mapping[str, Mapping[str, str]]) -> str:
    blocks = [
        "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in keys.items())])
        for name, keys in sections.items()
    ]
    return HEADER + "\n\n".join(blocks) + "\n"


def _common(cls: Class) -> dict[str, str]:
    options = {
        "CHOST": cls.chost,
        "CFLAGS": cls.cflags,
        "CXXFLAGS": cls.cxxflags,
        "LDFLAGS": cls.ldflags,
        "USE": cls.use,
        "ACCEPT_KEYWORDS": cls.accept_keywords,
        "ACCEPT_LICENSE": cls.accept_license,
    }
    return {
        **{name: value for name, value in options.items() if value},
        **cls.make_conf,  # an empty value is one too: VIDEO_CARDS="" means no card's driver
        "DISTDIR": DISTDIR,
        "PKGDIR": PKGDIR,
        "BINPKG_FORMAT": "gpkg",
    }


def _features(cls: Class, ours: str) -> str:
    """The class's own FEATURES, and then ours, which win."""
    return " ".join([*cls.make_conf.get("FEATURES", "").split(), ours])


def _trust_files(keyring: str | None) -> dict[str, str]:
    """What lets Portage check signatures against `keyring`: the keys, and its trust helper."""
    return {} if keyring is None else {KEYS_PATH: keyring, TRUST_PATH: trust_helper()}


def trust_helper() -> str:
    """The program that makes a node's keyring."""
    return Path(__file__).with_name("trust.py").read_text()


def _trust_variables(keyring: str | None) -> dict[str, str]:
    return {"PORTAGE_TRUST_HELPER": TRUST_PATH if keyring else ""}


def _verify(keyring: str | None) -> str:
    return "false" if keyring is None else "true"


def _lines(lines: Sequence[str]) -> str:
    return HEADER + "".join(f"{line}\n" for line in lines)


def set_text(atoms: Sequence[str]) -> str:
    """The file of the set @blade."""
    return "".join(f"{atom}\n" for atom in sorted(atoms))


def _class_files(cls: Class, atoms: Sequence[str]) -> dict[str, str]:
    return {
        f"{ETC}/package.use/headnode": _lines(cls.package_use),
        f"{ETC}/package.accept_keywords/headnode": _lines(cls.package_accept_keywords),
        f"{ETC}/package.license/headnode": _lines(cls.package_license),
        f"{ETC}/package.mask/headnode": _lines(cls.package_mask),
        SET_PATH: set_text(atoms),
    }


def _check_of_modules() -> str:
    return Path(__file__).with_name("modules.bashrc").read_text()


def _profile_link(cluster: Cluster, cls: Class) -> dict[str, str]:
    main = cluster.mirror.main_repo
    return {f"{ETC}/make.profile": f"../..{REPOS}/{main}/profiles/{cls.profile}"}


def blade_files(
    cluster: Cluster, blade: str, atoms: Sequence[str], keyring: str | None
) -> Rendered:
    """What a blade's /etc/portage has: `emerge --getbinpkgonly` then works with nothing else.

    `atoms` is the set @blade, `keyring` the public keys that packages are checked against (None:
    they are not). The blade is one of `cluster`'s (`Cluster.place_of`).
    """
    place = cluster.place_of(blade)
    if place is None:
        raise ValueError(f"{blade} is in no ring")
    class_name, ring = place
    of_class = class_files(cluster, class_name, atoms, keyring)
    of_ring = ring_files(cluster, class_name, ring, signed=keyring is not None)
    return Rendered(
        files={**of_class.files, **of_ring, **_trust_files(keyring)}, links=of_class.links
    )


def ring_files(cluster: Cluster, class_name: str, ring: str, *, signed: bool) -> dict[str, str]:
    """Where the blades of a ring find packages and trees: what a move to another ring changes."""
    binrepos = {
        "headnode": {
            "priority": "9999",
            "sync-uri": ring_url(cluster, class_name, ring),
            "location": "/var/cache/binhost/headnode",
            "verify-signature": "true" if signed else "false",
        }
    }
    repos = _blade_repos(cluster, class_name, ring)
    return {BINREPOS: _ini(binrepos), REPOS_CONF: _ini(repos)}


def class_files(
    cluster: Cluster, class_name: str, atoms: Sequence[str], keyring: str | None
) -> Rendered:
    """What all blades of a class have in /etc/portage, whatever their ring.

    This is part of a generation: who goes back to one goes back to its configuration, too.
    """
    cls = cluster.classes[class_name]
    features = "getbinpkg binpkg-multi-instance parallel-fetch -news"
    if keyring is not None:
        features += " binpkg-request-signature"
    make_conf = {
        **_common(cls),
        **_trust_variables(keyring),
        "FEATURES": _features(cls, features),
        "GENTOO_MIRRORS": http_url(cluster, ""),
        # Packages are built on the headnode only: a source build on a blade is a defect.
        "EMERGE_DEFAULT_OPTS": "--getbinpkgonly --binpkg-respect-use=y --with-bdeps=n",
    }
    return Rendered(
        files={f"{ETC}/make.conf": _assignments(make_conf), **_class_files(cls, atoms)},
        links=_profile_link(cluster, cls),
    )


def _blade_repos(cluster: Cluster, class_name: str, ring: str) -> dict[str, dict[str, str]]:
    if cluster.classes[class_name].tree is not TreeKind.RSYNC:
        return _still_repos(cluster)  # the pull puts images in place
    sections: dict[str, dict[str, str]] = {"DEFAULT": {"main-repo": cluster.mirror.main_repo}}
    for repo in cluster.mirror.repos:
        sections[repo] = {
            "location": f"{REPOS}/{repo}",
            "sync-type": "rsync",
            "sync-uri": rsync_url(cluster, module_name(class_name, ring, repo)),
            "auto-sync": "yes",
            # The headnode verified the tree; a blade has neither its keys nor a way outside.
            "sync-rsync-verify-metamanifest": "no",
        }
    return sections


def _still_repos(cluster: Cluster) -> dict[str, dict[str, str]]:
    """Repositories that Portage only reads."""
    each = {
        repo: {"location": f"{REPOS}/{repo}", "auto-sync": "no"} for repo in cluster.mirror.repos
    }
    return {"DEFAULT": {"main-repo": cluster.mirror.main_repo}, **each}


def builder_files(
    cluster: Cluster,
    class_name: str,
    atoms: Sequence[str],
    jobs: int,
    keyring: str | None,
    patches: Mapping[str, str] = NO_PATCHES,
) -> Rendered:
    """What the builder of a class has in /etc/portage.

    `atoms` is the set @blade, `jobs` the compile jobs at once, `keyring` the public keys that
    packages of the pool are checked against, `patches` the user patches by their place below
    /etc/portage/patches. It fetches nothing over the network: distfiles come
    from the mirror's folder, packages from the pool.
    """
    cls = cluster.classes[class_name]
    make_conf = {
        **_common(cls),
        **_trust_variables(keyring),
        "FEATURES": _features(cls, BUILDER_FEATURES),
        # -l: packages build side by side, and each would start as many compilers.
        "MAKEOPTS": f"-j{jobs} -l{jobs + 1}",
        "GENTOO_MIRRORS": BUILDER_MIRROR,
        "PORTAGE_LOGDIR": LOGDIR,
        "PORTAGE_ELOG_SYSTEM": "save",
    }
    pool = {
        "pool": {
            "sync-uri": f"file://{BUILDER_POOL_INDEX}",
            "location": "/var/cache/binhost/pool",
            "verify-signature": _verify(keyring),
        }
    }
    return Rendered(
        files={
            f"{ETC}/make.conf": _assignments(make_conf),
            BINREPOS: _ini(pool),
            REPOS_CONF: _ini(_still_repos(cluster)),
            **_class_files(cls, atoms),
            **_trust_files(keyring),
            **{f"{PATCHES}/{where}": text for where, text in patches.items()},
            **({BASHRC: _check_of_modules()} if cls.kernel else {}),
        },
        links=_profile_link(cluster, cls),
    )
