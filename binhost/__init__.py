"""The binhost: packages are built once, published once, and served to every blade.

::

    <state>/build/<class>/       the builder: upper/, staging/ (unpublished packages), logs/,
                                 index/ (the pool, as the builder's emerge sees it), result.json
    <state>/binhost/<class>/
        pool/<cat>/<pn>/<pf>-<build_id>.gpkg.tar   immutable, never rewritten under one name
        pool/entries             the index entries of all of them
        pool/sha256              their digests
        pool/build-ids           the highest build id that each version ever had
        pool/recent.json         what came since those were written
        generations/<n>/         entries, generation.json: what blades install, immutable
        rings/<ring>/current -> deployments/<seq>
        rings/<ring>/deployments/<seq>/   Packages, Packages.gz, generation.json, deployment.json,
                                 repos/<repo> -> the tree it was built from

Invariants: a name in the pool never changes content, nor is it given again once it is gone; a
generation names only what the pool has; a ring moves by one rename, and its index's TIMESTAMP only
grows.
"""
