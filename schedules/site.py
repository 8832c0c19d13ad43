"""Where a cluster's parts lie, and what each step of the cycle is given."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from binhost.keys import Keys
from binhost.publish import Binhost
from binhost.records import Generation, TreeImage
from binhost.user_patches import read_patches
from blades.enrol import Wallet
from blades.gateway_keys import WAY_ON
from config.blade import blade_json
from config.load import atoms_of
from config.model import Class, Cluster, Rollout, SigningMode, TreeKind
from config.portage import builder_files, class_files, http_url
from headnode.errors import ConfigError
from headnode.files import require_free_space
from mirror.contents import Kind
from mirror.image import ensure_image
from mirror.sets import read_set, set_path

if TYPE_CHECKING:
    from binhost.builder import Workshop


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A cluster as configured, with the folders of its state."""

    cluster: Cluster

    @property
    def state(self) -> Path:
        """The folder of all state."""
        return self.cluster.state.path

    @property
    def distfiles(self) -> Path:
        """The mirror's distfiles."""
        return self.state / "mirror" / "distfiles"

    @property
    def jobs(self) -> int:
        """Compile jobs at once."""
        return self.cluster.build.jobs or os.cpu_count() or 1

    def klass(self, name: str) -> Class:
        """The class of that name.

        Raises:
            ConfigError: there is none.
        """
        if name not in self.cluster.classes:
            known = ", ".join(self.cluster.classes)
            raise ConfigError(f"There is no class {name!r}.", remedy=f"There is {known}.")
        return self.cluster.classes[name]

    def ring(self, class_name: str, ring: str | None) -> str:
        """The ring of that name, or the first.

        Raises:
            ConfigError: there is none.
        """
        rings = self.klass(class_name).rings
        if ring is None:
            return next(iter(rings))
        if ring not in rings:
            known = ", ".join(rings)
            raise ConfigError(f"There is no ring {ring!r}.", remedy=f"The rings are {known}.")
        return ring

    def binhost(self, class_name: str) -> Binhost:
        """What is published of a class."""
        return Binhost(
            class_name=class_name,
            folder=self.state / "binhost" / class_name,
            build_folder=self.state / "build" / class_name,
            pool_url=http_url(self.cluster, f"binhost/{class_name}/pool"),
            repos_of=self.repos_of,
            image_of=partial(self.image_of, class_name),
            keys=self.keys if self.signs else None,
            valid=timedelta(days=self.cluster.signing.valid_days),
            blade_of=lambda ring, generation: self.blade_text(class_name, ring, generation),
        )

    def blade_text(self, class_name: str, ring: str, generation: Generation) -> str | None:
        """What the blades of a ring are to be like with a generation: their blade.json."""
        if generation.blade is None:
            return None
        return blade_json(
            self.cluster,
            class_name,
            ring,
            files=generation.blade.files,
            links=generation.blade.links,
            atoms=generation.atoms,
            signed=self.signs,
        )

    @property
    def wallet(self) -> Wallet:
        """What the headnode needs to get into blades."""
        return Wallet(folder=self.state / "keys" / "ssh")

    @property
    def rollout(self) -> Rollout:
        """The options of [rollout], with the headnode's own key where it has one.

        Through gateways, blades are reached by the gateway's key, and gateways by the headnode's.
        """
        options = self.cluster.rollout
        if not self.wallet.key.exists():
            return options
        own = shlex.join(self.wallet.ssh_options())
        if not options.gateways:
            update = {"ssh_options": f"{own} {options.ssh_options}".rstrip()}
        else:
            update = {
                "ssh_options": f"{WAY_ON} {options.ssh_options} -lroot",
                "gateway_options": f"{own} {options.gateway_options}".rstrip(),
            }
        return options.model_copy(update=update)

    @property
    def signs(self) -> bool:
        """Whether packages and deployments are signed."""
        return self.cluster.signing.mode is SigningMode.ON

    @property
    def keys(self) -> Keys:
        """The keys of this headnode."""
        options, folder = self.cluster.signing, self.state / "keys"
        home = options.home or folder / "signing"
        return Keys(folder=folder, home=home, configured=options.key)

    def keyring(self) -> str | None:
        """The public keys that nodes are given; None where nothing is signed.

        Raises:
            PublishError: there is no key yet.
        """
        if not self.signs:
            return None
        self.keys.signer()
        return self.keys.keyring()

    def repos_of(self, set_id: str) -> Mapping[str, Path]:
        """The snapshots of a snapshot set: repository to folder."""
        names = read_set(self.state, set_id)
        return {name: set_path(self.state, set_id, name) for name in names}

    def image_of(self, class_name: str, set_id: str) -> TreeImage | None:
        """A snapshot set as the blades of a class mount it; None where they sync by rsync.

        Raises:
            MirrorError: it could not be made.
            EnvironmentLacksError: there is no mksquashfs.
        """
        kind = self.klass(class_name).tree
        if kind is TreeKind.RSYNC:
            return None
        made = ensure_image(self.state, set_id, Kind(kind))
        return TreeImage(kind=kind, sha256=made.sha256, size_bytes=made.size_bytes)

    def workshop(self, class_name: str, set_id: str) -> Workshop:
        """What a class's builder is set up from, with the trees of a snapshot set."""
        from binhost.builder import Workshop  # here: who publishes needs no builder

        atoms, keyring = atoms_of(self.klass(class_name)), self.keyring()
        return Workshop(
            folder=self.state / "build" / class_name,
            state=self.state,
            root=self.cluster.build.root,
            repos=self.repos_of(set_id),
            distfiles=self.distfiles,
            pool=self.binhost(class_name).pool,
            configuration=builder_files(
                self.cluster,
                class_name,
                atoms,
                self.jobs,
                keyring,
                read_patches(self.patches(class_name)),
            ),
            blade=class_files(self.cluster, class_name, atoms, keyring),
        )

    def patches(self, class_name: str) -> Path:
        """The folder of a class's user patches."""
        return self.state / "patches" / class_name

    def require_space(self) -> None:
        """Refuse to start where the disk is nearly full.

        Raises:
            EnvironmentLacksError: less than the reserve is free.
        """
        require_free_space(self.state, self.cluster.state.reserve_mib << 20)
