"""Kernels of one's own, and what openMosix wants to know of the cluster."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from pydantic import Field

from config.model.base import Section
from config.values import Address, Count, Nodes, Place


class Loader(StrEnum):
    """What boots a blade's kernel."""

    GRUB = "grub"
    NONE = "none"


class Kernel(Section):
    """Kernels that are built here; which one a class boots is `classes.<name>.kernel`."""

    flavours: Place = Field(
        Path("/etc/headnode/flavours"),
        description="Folder of the site's own flavours, `<name>.toml`, with the patches and "
        "configurations that they name.",
    )
    loader: Loader = Field(
        Loader.GRUB,
        description="`grub`: a pull writes GRUB's menu, boots a new kernel once, and makes it the "
        "default when it runs. `none`: a pull brings kernels into /boot and switches nothing, for "
        "blades that boot otherwise.",
    )
    keep: Count = Field(
        3,
        ge=2,
        description="Kernels that a blade keeps in /boot, the newest first. The running one and "
        "the fallback are never removed. 2 is the least: one to boot, one to fall back to.",
    )


class Openmosix(Section):
    """The cluster as openMosix sees it: who is node 1, 2, 3 and so on."""

    addresses: dict[Nodes, Address] = Field(
        {},
        description="Address of the first blade of each node set; the others of the set follow it "
        'one by one, as in `"blade[01-58]" = "10.0.1.1"`. /etc/openmosix.map is made from it, the '
        "same for every blade. Empty: there is none.",
    )
