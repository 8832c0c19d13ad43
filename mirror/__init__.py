"""The mirror: the tree and the distfiles, copied once from outside for every blade.

On disk::

    <state>/mirror/repos/<repo>/staging/             a sync under way, or what a killed one left
    <state>/mirror/repos/<repo>/snapshots/<stamp>/   a checked tree; unchanged files are hard links
    <state>/mirror/repos/<repo>/current              -> snapshots/<stamp>
    <state>/mirror/repos/<repo>/lock                 held by the sync
    <state>/mirror/sets/<id>.json                    one snapshot of every repository
    <state>/mirror/distfiles/layout.conf             GLEP 75
    <state>/mirror/distfiles/<2 hex>/<file>          verified, complete
    <state>/mirror/distfiles/.partial/<file>         being fetched, resumed by the next run

`rsync` is the one door to rsync; `tree` makes snapshots; `layout` says where a distfile lies;
`distfiles` plans and fetches them, over `download`; `rsyncd` renders what serves the trees;
`upstream` is a small repository of our own for the lab.

Invariants: whatever has its final name is complete and was checked. A snapshot is never written to
again. All of it is readable by everyone, since rsyncd serves it as nobody.
"""
