"""The keys: is there one that signs, does it work, and can nobody else read it."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from binhost.signing import Signer
from headnode.doctor.findings import Finding, good, problem, warning
from headnode.errors import HeadnodeError
from schedules.site import Site

OTHERS = stat.S_IRWXG | stat.S_IRWXO


def keys(site: Site) -> Iterator[Finding]:
    """Whether packages are signed, and can be."""
    if not site.signs:
        yield warning(
            "nothing is signed",
            'who answers in the headnode\'s place is root on every blade: [signing] mode = "on"',
        )
        return
    home = site.keys.home
    if home.is_dir() and (mode := home.stat().st_mode & OTHERS):
        yield problem(f"{home} is open to others ({mode:03o})", f"chmod 700 {home}")
    try:
        signer = Signer.of(site.keys)
        with tempfile.TemporaryDirectory() as folder:
            sample = Path(folder) / "sample"
            sample.write_text("headnode doctor\n")
            signer.seal(sample)
    except HeadnodeError as error:
        yield problem(f"nothing can be signed: {error.what}", error.remedy)
    else:
        yield good(f"{signer.key} signs, blades trust {len(signer.trusted)} keys")
