"""A node: processes with a root, a network and process numbers of their own, on this machine.

The builder and every simulated blade are nodes. A node is held up by one process that does nothing;
it is the first in its PID namespace, so when it ends, however it ends, the kernel ends all others
and takes the mounts and the network with them. Only the folder `store` is left::

    <store>/
        upper/     what the node has written (kept for a builder, dropped with a blade)
        work/      overlayfs's own
        root/      where the root is put together; empty for everyone but the node
        start.log  why it did not come up

`spec` says what a node is, `script` how it sets itself up, `machine` what the machine must have,
and `running` starts it and runs commands in it.

Source: overlayfs (kernel, Documentation/filesystems/overlayfs.rst), namespaces(7), pivot_root(2).
"""
