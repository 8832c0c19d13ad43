"""The far side of the lab: a small Gentoo repository and its distfiles, served as an upstream does.

Its repository is called `gentoo`, since it plays the main one. The ebuilds are the project's own
(`tree/`, EAPI 8, no eclasses), the sources partly too (`src/`); hello, tree and pwgen are built
from the tarballs that Debian ships unmodified, or, where those cannot be had, from a stand-in of
version 0 in the ebuild's `files/`. What is assembled::

    <target>/
      tree/                    what rsyncd serves as module gentoo-portage
        <category>/<package>/  ebuilds, Manifest, metadata.xml, files/
        metadata/              layout.conf, md5-cache/, timestamp.chk, timestamp.x
        profiles/              repo_name, lab/amd64 (the profile that blades select)
      distfiles/               served over HTTP at /distfiles/, GLEP 75 layout
        layout.conf            0=filename-hash BLAKE2B 8
        <2 hex digits>/<file>
      assembled.json           what the target holds: a version for each package, and which are real

Invariants: each package has one version after `assemble`, and one more with each `bump`; Manifests
and md5-cache are made by the environment's Portage and agree with the ebuilds; the tree's
timestamp only grows; the tarballs of in-house sources are the same bytes wherever they are made.
"""
