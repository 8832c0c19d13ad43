"""What a blade believes: gpg's own words, and the terms of a deployment."""

from datetime import UTC, datetime

import pytest

from blades.order import Order, UntrustedError, check_terms, is_trusted, why_not

NOW = datetime(2026, 5, 1, tzinfo=UTC)
GOOD = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 1 a\n[GNUPG:] VALIDSIG 1\n[GNUPG:] TRUST_ULTIMATE 0 pgp\n"
UNKNOWN = "[GNUPG:] NEWSIG\n[GNUPG:] ERRSIG 2 22 8 00 1 9\n[GNUPG:] NO_PUBKEY 2\n"
BAD = "[GNUPG:] NEWSIG\n[GNUPG:] BADSIG 1 a\n"
EXPIRED = "[GNUPG:] NEWSIG\n[GNUPG:] EXPKEYSIG 1 a\n[GNUPG:] TRUST_ULTIMATE 0 pgp\n"
UNTRUSTED = "[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG 1 a\n[GNUPG:] TRUST_UNDEFINED 0 pgp\n"


@pytest.mark.parametrize("status", [GOOD, UNKNOWN + GOOD, GOOD + UNKNOWN, EXPIRED + GOOD])
def test_one_good_signature_by_a_trusted_key_is_enough(status: str) -> None:
    assert is_trusted(status)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("", ""),
        (BAD + GOOD, "it was altered after it was signed"),
        (BAD, "it was altered after it was signed"),
        (UNKNOWN, "it is signed by a key that this blade does not know"),
        (EXPIRED, "the key that signed it has expired"),
        (UNTRUSTED, "the key that signed it is not trusted"),
        # The trust of one signature is not lent to the next.
        (EXPIRED + UNTRUSTED, "the key that signed it has expired"),
        ("[GNUPG:] NODATA 4\n", "it has no signature"),
        ("gpg: [GNUPG:] GOODSIG\n[GNUPG:] TRUST_ULTIMATE\n", ""),
    ],
)
def test_anything_else_is_not_and_the_reason_is_told(status: str, reason: str) -> None:
    assert not is_trusted(status)
    assert why_not(status) == reason


def order(**more: object) -> Order:
    says = {
        "class_name": "blade",
        "ring": "canary",
        "sequence": 7,
        "expires": "2026-05-02T00:00:00Z",
        **more,
    }
    return Order(base="http://h/binhost/blade/canary", content=b"", says=says)


@pytest.mark.parametrize("highest", [0, 6, 7])
def test_a_deployment_for_this_blade_and_for_now_is_taken(highest: int) -> None:
    check_terms(order(), "blade", "canary", highest, NOW, signed=True)


def test_without_signatures_its_end_means_nothing() -> None:
    old = order(expires="2001-01-01T00:00:00Z")
    check_terms(old, "blade", "canary", 0, NOW, signed=False)
    with pytest.raises(UntrustedError) as error:
        check_terms(old, "blade", "canary", 0, NOW, signed=True)
    assert str(error.value) == (
        "the deployment at http://h/binhost/blade/canary expired on 2001-01-01 00:00 UTC: does "
        "headnode serve run, and is this blade's clock right (2026-05-01 00:00 UTC)?"
    )


@pytest.mark.parametrize("more", [{"class_name": "other"}, {"ring": "fleet"}, {"sequence": 6}])
def test_one_that_is_not_for_this_blade_or_is_old_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(UntrustedError):
        check_terms(order(**more), "blade", "canary", 7, NOW, signed=True)
