"""headnode: the command line, the daemon, and the few small things that every other package needs.

`errors`, `process`, `files`, `node` and `gentoo` are the ground floor: they import nothing else of
this project. `cli`, `daemon` and `demo` are the top floor: they put the feature packages together.
"""
