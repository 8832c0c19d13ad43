"""emerge's refusals, read: output of Portage 3.0.83, captured on a blade."""

from binhost.why import Kind, Reason, blade_flags, judge, read
from headnode.process import Completed

HEAD = """
These are the packages that would be merged, in order:

Calculating dependencies ... done!
Dependency resolution took 0.07 s (backtrack: 2/20).


"""
TAIL = """For more information, see the MASKED PACKAGES section in the emerge
man page or refer to the Gentoo Handbook.

"""
SUB_SLOT = f"""{HEAD}emerge: there are no binary packages to satisfy "dev-libs/libblade:0/1=".
(dependency required by "sys-apps/bladeinfo-1.0::gentoo" [binary])
(dependency required by "cluster-meta/blade-1.0::gentoo" [binary])
(dependency required by "@blade" [argument])
"""
SEVERAL = f"""{HEAD}!!! All binary packages that could satisfy "app-misc/colours" have been masked.
!!! One of the following masked packages is required to complete your request:
- app-misc/colours-1.0::gentoo (masked by: package.mask, ~amd64 keyword)
- app-misc/colours-0.9::gentoo (masked by: GPL-2+ license(s))
A copy of the 'GPL-2+' license is located at '/var/db/repos/gentoo/licenses/GPL-2+'.

(dependency required by "cluster-meta/blade-1.0::gentoo" [binary])
{TAIL}"""
SONAME = f"""{HEAD}emerge: there are no binary packages to satisfy "x86_64: libold.so.1".
(dependency required by "sys-apps/nodekeys-1.0::gentoo" [binary])
"""
LIBRARY = "CPV: dev-libs/libblade-2.0\nSLOT: 0/2\n"


def refused(output: str) -> Completed:
    return Completed(argv=("emerge",), code=1, output=output, errors="", seconds=0.1)


def test_a_sub_slot_is_named_with_what_the_ring_has_and_who_needs_it() -> None:
    verdict = read("@blade", SUB_SLOT, [LIBRARY])
    assert verdict.text == (
        "@blade would not be taken as a binary.\n"
        "It comes to dev-libs/libblade:0/1=, which sys-apps/bladeinfo-1.0 needs, which "
        "cluster-meta/blade-1.0 needs, which @blade needs.\n"
        "No dev-libs/libblade of the ring has the slot that dev-libs/libblade:0/1= wants; it has "
        "dev-libs/libblade-2.0:0/2."
    )


def test_every_candidate_and_every_mask_is_a_reason_of_its_own() -> None:
    assert [(each.package, each.kind) for each in read("x/y", SEVERAL, []).reasons] == [
        ("app-misc/colours-1.0", Kind.MASK),
        ("app-misc/colours-1.0", Kind.KEYWORD),
        ("app-misc/colours-0.9", Kind.LICENCE),
    ]


def test_a_library_is_a_reason_when_libraries_were_asked_for() -> None:
    assert read("@blade", SONAME, []).reasons == (
        Reason(
            kind=Kind.LIBRARY,
            package="x86_64: libold.so.1",
            text="No package of the ring and no library of the root provides x86_64: libold.so.1.",
        ),
    )


def test_what_is_not_understood_is_given_in_emerges_words() -> None:
    def unexpected(argv: list[str]) -> Completed:
        raise AssertionError(argv)

    verdict = judge("x/y", refused(f"{HEAD}!!! A new kind of trouble.\n"), [], unexpected)
    assert verdict.text == (
        "x/y would not be taken as a binary.\n"
        "emerge gives another reason:\n!!! A new kind of trouble."
    )


def test_flags_that_cannot_be_had_from_emerge_leave_the_plain_reason() -> None:
    mismatch = SEVERAL.replace("package.mask, ~amd64 keyword", "use flag configuration mismatch")
    verdict = judge("x/y", refused(mismatch), [], lambda argv: refused("no ebuild"))
    assert verdict.reasons[0].text == (
        "app-misc/colours-1.0: it was built with other USE flags than the blade has."
    )


def test_flags_are_read_as_emerge_decorates_them() -> None:
    said = (
        '[ebuild  N     ] a/b-1::gentoo  USE="x* -y (z) (-w) {test}" PYTHON_TARGETS="p3_12 -p3_13%"'
    )
    assert blade_flags("a/b-1", said) == {
        "x": True,
        "y": False,
        "z": True,
        "w": False,
        "test": True,
        "python_targets_p3_12": True,
        "python_targets_p3_13": False,
    }
