from pathlib import Path

from config import options, reference
from config.model import Cluster

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == reference.render(), (
        "docs/options.md is out of date: run python -m config.reference > docs/options.md"
    )


def test_every_option_has_a_meaning_and_every_table_a_docstring() -> None:
    assert Cluster.__doc__
    for at, model in options.tables():
        assert model.__doc__, at
        for option in options.options_of(model, at):
            assert option.field.description, option.dotted


def test_every_option_that_is_not_set_by_default_has_an_example() -> None:
    unset = {
        option.dotted: option.field.examples
        for at, model in options.tables()
        for option in options.options_of(model, at)
        if options.default_of(option.field) is None
    }
    assert unset == {
        "classes.<name>.world": ["blade.world"],
        "distcc.helpers": ["blade[01-58]"],
        "rollout.gateways": ["gate[1-4]"],
        "signing.home": ["/root/.gnupg"],
        "signing.key": ["0123456789ABCDEF0123456789ABCDEF01234567"],
        "serve.access_log": ["/var/log/headnode-access.log"],
        "mirror.repos.<name>.openpgp_key": ["/usr/share/openpgp-keys/gentoo-release.asc"],
        "mirror.repos.<name>.path": ["/var/db/repos/site"],
    }


def test_a_row_has_name_type_limits_default_and_meaning() -> None:
    rows = reference.render().splitlines()
    assert (
        "| `serve.http_port` | port, 1 to 65535 | `8080` | TCP port of the HTTP server. |" in rows
    )
    assert (
        "| `mirror.distfiles.parallel` | whole number, 1 or more | `8` | Files fetched at once, "
        "from all hosts together. |"
    ) in rows
    assert (
        "| `classes.<name>.package_mask` | list of lines | `[]` "
        "| Lines of package.mask, as in `>=dev-lang/python-3.14`. |"
    ) in rows
