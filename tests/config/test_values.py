"""What cluster.toml may say, held against Portage's and the fleet's own idea of it."""

import pytest
from portage.dep import Atom as PortageAtom
from portage.exception import InvalidAtom
from portage.util import getconfig
from pydantic import TypeAdapter, ValidationError

from config.values import Atom, Nodes, Value

ATOMS = (
    *("app-misc/hello", "=app-misc/hello-2.12", ">=dev-lang/python-3.12", "~sys-apps/sed-4.9"),
    *("<sys-cluster/slurm-24", "<=a/b-1_rc2-r3", ">a/b-1.2.3b", "=dev-lang/python-3.12*"),
    *("dev-lang/python:3.12", "dev-libs/openssl:0/3", "dev-libs/openssl:=", "dev-libs/openssl:0="),
    *("app-misc/hello::gentoo", "app-misc/hello[nls]", "=app-misc/hello-1:0::gentoo[nls,-doc]"),
    *("x11-libs/gtk+", "dev-cpp/gtkmm", "media-fonts/font-adobe-100dpi", "a/b-c", "app-misc/b2"),
    *("sys-cluster/slurm-24.05", "=cat/foo", ">=cat/foo", "cat/foo[bar", "cat/foo]", "cat/*"),
    *("<>cat/foo-1", "./foo", "~cat/foo-1*", ">=cat/foo-1*", "cat/foo-1-r1", "cat/", "/foo", "="),
    *("cat/foo:", "cat/foo::", "cat/foo[]", "==cat/foo-1", "=cat/foo-1-2", "cat/foo bar", "*/*"),
)


def is_taken(kind: object, text: str) -> bool:
    try:
        TypeAdapter(kind).validate_python(text)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("text", ATOMS)
def test_an_atom_is_one_that_portage_takes(text: str) -> None:
    """What it does not take, emerge leaves out of a set, and ends well."""
    try:
        PortageAtom(text, allow_repo=True)
        portages = True
    except InvalidAtom:
        portages = False
    assert is_taken(Atom, text) is portages


@pytest.mark.parametrize(
    "text", ["blade01 blade02", "../../x", "-oProxyCommand=x", "blade1;x", "blade\n1", "a/b", "$x"]
)
def test_a_node_set_has_machines_names_alone(text: str) -> None:
    with pytest.raises(ValidationError, match=r"is no machine's name|not a node set"):
        TypeAdapter(Nodes).validate_python(text)


@pytest.mark.parametrize("text", ["blade[01-58]", "blade01,login.site_2", "n[1-3,7]-ib"])
def test_a_node_set_is_taken(text: str) -> None:
    assert is_taken(Nodes, text)


@pytest.mark.parametrize(
    "text", ["-O2 -pipe", "${CFLAGS} -g", "nls -X", "-O2 ${", "$(x)", "${X", "$X", "${1}", "5$"]
)
def test_a_value_that_is_taken_is_the_one_that_portage_reads(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("etc") / "make.conf"
    path.write_text(f'CFLAGS="-O1"\nUSE="{text}"\n')
    if is_taken(Value, text):
        read = getconfig(str(path), expand=True)
        assert read["USE"] == text.replace("${CFLAGS}", "-O1")
