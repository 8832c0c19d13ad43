"""cluster.toml: its model, how it is read, and the files that are rendered from it.

`model` says every option once (meaning, unit, default); `load` reads a file into it; `template`
writes the first file; `reference` writes the manual's option page; `portage` renders what Portage
reads on blades and in the builder. Nothing here touches the network or runs a program.
"""
