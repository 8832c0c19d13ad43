"""Nothing disappears unexplained: which explanations there are, and what is said without one."""

from binhost.monotonic import Stand, examine


def entry(cpv: str, **more: str) -> str:
    keys = {"CPV": cpv, "EAPI": "8", "SLOT": "0", **more}
    return "".join(f"{key}: {value}\n" for key, value in keys.items())


def stand(atoms: str, **packages: str) -> Stand:
    """A set, and packages `name=RDEPEND`; every one is `c/name-1`, or `c/name-2` as `name_2=`."""
    entries = {}
    for word, rdepend in packages.items():
        name, _, version = word.partition("_")
        more = {"RDEPEND": rdepend} if rdepend else {}
        entries[f"c/{name}/{word}"] = entry(f"c/{name}-{version or 1}", **more)
    return Stand(atoms=atoms.split(), packages=entries, read=lambda: entries)


def say(old: Stand, new: Stand, max_gone_percent: int = 0) -> tuple[bool, str]:
    report = examine(old, new, max_gone_percent=max_gone_percent)
    assert report.gate == "monotonic"
    return report.passed, report.report


def test_a_ring_without_anything_loses_nothing() -> None:
    assert say(stand(""), stand("c/a", a="")) == (
        True,
        "The ring has nothing that could disappear.",
    )


def test_updates_rebuilds_and_additions_are_no_loss() -> None:
    assert say(stand("c/a", a="c/b", b=""), stand("c/a c/x", a_2="c/b", b="", x="")) == (
        True,
        "All of the ring's packages (2) are there in the new generation.",
    )


def test_what_the_set_gave_up_is_explained_and_so_is_what_only_that_needed() -> None:
    old = stand("c/a c/z", a="c/b:=", b="|| ( c/d c/e )", d="", z="")
    assert say(old, stand("c/z", z="")) == (
        True,
        "3 of 4 packages are gone, as the set says: c/a, c/b, c/d.",
    )


def test_what_a_new_version_needs_no_more_is_explained() -> None:
    assert say(stand("c/a", a="c/b", b=""), stand("c/a", a_2="")) == (
        True,
        "1 of 2 packages are gone, as the set says: c/b.",
    )


def test_a_post_dependency_counts_as_a_need_and_a_blocker_does_not() -> None:
    had = {
        "c/a/a-1": entry("c/a-1", PDEPEND="c/b[x]", RDEPEND="!c/d"),
        "c/b/b-1": entry("c/b-1"),
        "c/d/d-1": entry("c/d-1"),
    }
    have = {"c/a/a-1": had["c/a/a-1"]}
    old = Stand(atoms=["c/a"], packages=had, read=lambda: had)
    new = Stand(atoms=["c/a"], packages=have, read=lambda: have)
    assert say(old, new) == (
        False,
        "c/b is gone: c/a needs it.\n"
        "c/d is gone: no atom of the old set and no package needed it (perhaps @system did).",
    )


def test_what_the_set_still_names_is_not_explained() -> None:
    assert say(stand("c/a c/z", a="", z=""), stand(">=c/a-1 c/z", z="")) == (
        False,
        "c/a is gone: the set has >=c/a-1.",
    )


def test_only_the_cause_is_named_and_not_what_went_with_it() -> None:
    old = stand("c/a", a="c/b", b="c/d", d="")
    assert say(old, stand("c/a", a="c/b")) == (False, "c/b is gone: c/a needs it.")


def test_packages_that_needed_each_other_and_nobody_else_did_do_not_explain_themselves() -> None:
    assert say(stand("c/z", a="c/b", b="c/a", z=""), stand("c/z", z="")) == (
        False,
        "c/a is gone: only c/b needed it, and nothing explains that either.\n"
        "c/b is gone: only c/a needed it, and nothing explains that either.",
    )
    assert say(stand("c/z c/a", a="c/b", b="c/a", z=""), stand("c/z", z=""))[0]


def test_an_alternative_that_took_its_place_is_an_explanation() -> None:
    old = stand("c/a", a="|| ( c/b ( c/d c/e ) )", b="")
    assert say(old, stand("c/a", a="|| ( c/b ( c/d c/e ) )", d="", e=""))[0]
    assert say(old, stand("c/a", a="|| ( c/b ( c/d c/e ) )", d="")) == (
        False,
        "c/b is gone: c/a needs it.",
    )


def test_another_slot_of_it_is_the_same_package() -> None:
    old = stand("c/a c/p", a="c/p", p="", p_2="")
    assert say(old, stand("c/a c/p", a="c/p", p_2="")) == (
        True,
        "All of the ring's packages (2) are there in the new generation.",
    )


def test_a_large_share_is_refused_although_the_set_says_so() -> None:
    old = stand("c/a c/b c/d c/e c/f", a="", b="", d="", e="", f="")
    assert say(old, stand("c/b c/d c/e c/f", b="", d="", e="", f=""), 20)[0]
    new = stand("c/d c/e c/f", d="", e="", f="")
    assert say(old, new, 20) == (
        False,
        "2 of 5 packages are gone at once ([publish] max_gone_percent is 20): c/a, c/b.",
    )
    assert say(old, new, 0)[0]
