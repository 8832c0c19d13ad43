"""distcc: who helps the headnode to compile.

`hosts` renders the helpers of cluster.toml as distcc reads them. Probing helpers, and building with
them, are not here yet.
"""
