"""The mirror: the tree and the distfiles, copied once from outside for every blade.

On disk::

    <state>/mirror/repos/<repo>/staging/             a sync under way, or what a killed one left
    <state>/mirror/repos/<repo>/git/, checkout/      a git upstream's clone, and its files
    <state>/mirror/repos/<repo>/snapshots/<stamp>/   a checked tree; unchanged files are hard links
    <state>/mirror/repos/<repo>/current              -> snapshots/<stamp>
    <state>/mirror/repos/<repo>/lock                 held by the sync
    <state>/mirror/status/<repo>.json                last try, last good, what failed and why
    <state>/mirror/sets/<id>.json                    one snapshot of every repository
    <state>/mirror/images/<sha256>.squashfs          a set as blades mount it (`image`)
    <state>/mirror/distfiles/layout.conf             GLEP 75
    <state>/mirror/distfiles/<2 hex>/<file>          verified, complete
    <state>/mirror/distfiles/.partial/               being fetched, resumed by the next run
    <state>/mirror/recycle/<2 hex>/<file>            named by no tree in use any more
    <state>/mirror/quarantine/<2 hex>/<file>         found damaged
    <state>/mirror/catalogues/<repo>/<stamp>.sqlite  which packages of a snapshot name which file
    <state>/mirror/full/                             emirrordist's own folder

`rsync` is the one door to rsync, `git` to git. `tree` syncs a repository: `origins` fills staging
from an upstream, `heads` and `guard` decide whether there is anything new and whether it is to be
believed, `verify_tree`, `manifests` and `md5cache` check it, `snapshots` puts it in front, `status`
remembers what became of it. `layout` says where a distfile lies; `distfiles` plans and fetches
them, over `download`; `contents` says what of a set is in an image, and `image` makes it; `rsyncd`
renders what serves trees and images; `upstream` is a small repository of our own for the lab.

Of the distfiles, `wanted` says which ones packages need, `lookup` what the trees say of one (over
`catalogue`), `store` where they lie; `fetcher` brings one (over `mirrors`, `claims`, `download` and
`validators`). What is done with them: `distfiles` (a sync), `pull_through` (on demand), `full`
(every one, over `emirrordist`), `by_hand`, `audit` and `recycle`.

Invariants: whatever has its final name is complete and was checked. A snapshot is never written to
again. All of it is readable by everyone, since rsyncd serves it as nobody.
"""
