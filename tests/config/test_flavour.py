from pathlib import Path

import pytest

from config.flavour import (
    SHIPPED,
    load_flavour,
    lost,
    merge,
    names,
    parse_config,
    requested,
)
from config.load import atoms_of, from_values
from headnode.errors import ConfigError

DIGEST = "a" * 64
SOURCE = f'[source]\nfile = "linux.tar.xz"\nsha256 = "{DIGEST}"\n'


def flavour(folder: Path, text: str, name: str = "site") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    path = flavour(folder, text)
    with pytest.raises(ConfigError) as error:
        load_flavour(folder, "site")
    return str(error.value).replace(str(path), "site.toml")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_flavour_is_as_it_must_be(path: Path, tmp_path: Path) -> None:
    recipe = load_flavour(tmp_path, path.stem)
    assert recipe.shipped
    assert recipe.flavour.about
    assert requested(recipe)


def test_openmosix_names_its_files_its_compiler_and_its_options(tmp_path: Path) -> None:
    recipe = load_flavour(tmp_path, "openmosix")
    assert recipe.local_version == "-openmosix"
    assert recipe.flavour.compiler == "gcc-3.4.6"
    assert recipe.flavour.source.file == "linux-2.4.32.tar.bz2"
    assert [patch.file for patch in recipe.flavour.patches] == [
        "patch-2.4.32-om-migshm-no-mfs-20060417.bz2"
    ]
    assert requested(recipe)["MOSIX"] == ("y", "openmosix.toml")


def test_a_site_s_flavour_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    flavour(tmp_path, SOURCE, "blade")
    flavour(tmp_path, SOURCE, "mine")
    flavour(tmp_path, SOURCE, "Not-A-Name")
    assert list(names(tmp_path)) == ["blade", "mine", "openmosix"]
    assert not load_flavour(tmp_path, "blade").shipped


def test_an_unknown_flavour_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_flavour(tmp_path, "blad")
    assert str(error.value) == (
        "There is no flavour 'blad'. There is blade, openmosix; a new one would be "
        f"{tmp_path}/blad.toml."
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "",
            "site.toml: source: is missing. Where the kernel's source is from: an archive, or a "
            "package that installs it.",
        ),
        ("source = 3", "site.toml:1: source: expected a table, found 3."),
        ("[source]\n", "site.toml:1: source.file: needs either `file` or `package`."),
        (
            '[source]\nfile = "a.tar"\n',
            "site.toml:2: source.file: a file needs its digest: sha256.",
        ),
        (
            '[source]\nfile = "../a.tar"\nsha256 = "12"\n',
            "site.toml:2: source.file: '../a.tar' is not the name of a file, without a folder.\n"
            "site.toml:3: source.sha256: '12' is not a SHA-256: 64 hex digits, as sha256sum prints "
            "them.",
        ),
        (
            f'{SOURCE}[[patches]]\nfile = "a.patch"\n\n[[patches]]\nfiles = "b"\n',
            "site.toml:4: patches[0].sha256: is missing. Its SHA-256.\n"
            "site.toml:7: patches[1].file: is missing. A file's name.\n"
            "site.toml:7: patches[1].sha256: is missing. Its SHA-256.\n"
            "site.toml:8: patches[1].files: unknown key. Did you mean `file`?",
        ),
        (
            f"compilr = 'gcc'\n{SOURCE}",
            "site.toml:1: compilr: unknown key. Did you mean `compiler`?",
        ),
        (
            f"make_args = ['O=/x', 'modules']\n{SOURCE}",
            "site.toml:1: make_args[0]: O is worked out from the flavour.\n"
            "site.toml:1: make_args[1]: 'modules' is not NAME=value for make.",
        ),
        (
            f"local_version = 'x'\ninitramfs = 'dracut'\n{SOURCE}",
            "site.toml:1: local_version: 'x' is not a '-' and up to 32 letters, digits, '.', '_' "
            "and '-'.",
        ),
        (
            f"initramfs = 'dracut'\n{SOURCE}",
            "site.toml:1: initramfs: the command has no {file}.",
        ),
        (
            f"initramfs = 'dracut {{{{file}}}}'\n{SOURCE}",
            "site.toml:1: initramfs: the command has no {file}.",
        ),
        (
            f"initramfs = 'dracut --add \"a b {{file}}'\n{SOURCE}",
            "site.toml:1: initramfs: the command cannot be read (No closing quotation): it can "
            "have {release} and {file}, and each other brace twice.",
        ),
        (
            f"initramfs = 'dracut --add {{modules}} {{file}}'\n{SOURCE}",
            "site.toml:1: initramfs: the command cannot be read ('modules'): it can have "
            "{release} and {file}, and each other brace twice.",
        ),
        (
            f"initramfs = 'dracut {{file.name}}'\n{SOURCE}",
            "site.toml:1: initramfs: the command cannot be read ('str' object has no attribute "
            "'name'): it can have {release} and {file}, and each other brace twice.",
        ),
        (
            f"{SOURCE}[config]\nbase = 'rm -rf'\n",
            "site.toml:5: config.base: 'rm -rf' is neither a make target (…config) nor a file with "
            "a dot.",
        ),
        (
            f"{SOURCE}[config.set]\nCONFIG_X = 'y'\nFOO = 'yes'\n",
            "site.toml:6: config.set.FOO: 'yes' is not y, m, n, a number, or text in quotation "
            "marks.",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    assert refused(tmp_path, text) == said


def test_fragments_and_set_are_asked_for_in_order_and_the_local_version_is_ours(
    tmp_path: Path,
) -> None:
    (tmp_path / "one.config").write_text(
        '# a comment\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_LOCALVERSION="-x"\n'
    )
    (tmp_path / "two.config").write_text("CONFIG_A=m\n")
    text = f'{SOURCE}[config]\nfragments = ["one.config", "two.config"]\nset = {{ C = "0x10" }}\n'
    flavour(tmp_path, text)
    assert requested(load_flavour(tmp_path, "site")) == {
        "A": ("m", "two.config"),
        "B": ("n", "one.config"),
        "LOCALVERSION": ('""', "site.toml"),
        "C": ("0x10", "site.toml"),
        "LOCALVERSION_AUTO": ("n", "site.toml"),
    }


def test_a_fragment_that_is_none_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "one.config").write_text("CONFIG_A=y\nA=y\n")
    flavour(tmp_path, f'{SOURCE}[config]\nfragments = ["one.config"]\n')
    with pytest.raises(ConfigError) as error:
        requested(load_flavour(tmp_path, "site"))
    assert str(error.value) == f"{tmp_path}/one.config: line 2 is no line of a .config: 'A=y'."


def test_what_is_wanted_takes_the_place_of_what_the_base_says() -> None:
    base = '#\n# Linux\n#\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x"\n'
    wanted = {"A": ("n", "f"), "B": ("m", "f"), "D": ("7", "f")}
    merged = merge(base, wanted)
    assert merged == (
        '#\n# Linux\n#\nCONFIG_C="x"\n# CONFIG_A is not set\nCONFIG_B=m\nCONFIG_D=7\n'
    )
    assert parse_config(merged) == {"A": "n", "B": "m", "C": '"x"', "D": "7"}


def test_each_symbol_that_did_not_survive_is_named_with_who_asked_for_it() -> None:
    resolved = "CONFIG_A=y\n# CONFIG_B is not set\n"
    wanted = {
        "A": ("y", "f"),
        "B": ("m", "net.config"),
        "GONE": ("n", "f"),
        "LOCALVERSION": ('""', "f"),
        "X": ('"text"', "site.toml"),
    }
    assert lost(resolved, wanted) == [
        "CONFIG_B=m (net.config) came out as # CONFIG_B is not set",
        'CONFIG_X="text" (site.toml) came out as # CONFIG_X is not set',
    ]


def test_a_class_with_a_kernel_has_its_package_and_the_overlay() -> None:
    cluster = from_values({"classes": {"blade": {"kernel": "blade", "packages": ["a/b"]}}})
    assert atoms_of(cluster.classes["blade"]) == ("a/b", "sys-kernel/headnode-blade")
    assert cluster.mirror.main_repo == "gentoo"
    assert cluster.mirror.repos["headnode"].path == Path("/var/lib/headnode/overlay")
    assert list(from_values({}).mirror.repos) == ["gentoo"]


def test_a_repository_of_the_overlay_s_name_is_refused() -> None:
    repos = {"gentoo": {"path": "/a"}, "headnode": {"path": "/b"}}
    with pytest.raises(ConfigError) as error:
        from_values({"mirror": {"repos": repos}, "classes": {"blade": {"kernel": "blade"}}})
    assert str(error.value) == (
        "mirror.repos.headnode: that is the name of the repository that headnode renders. Give "
        "yours another one, in its profiles/repo_name too."
    )
