"""Blades: which there are, how the headnode reaches them, how one pulls, and simulated ones.

`inventory` knows the blades of a class and their rings; `transport` runs a command on many at once,
through `gateways` where there are any; `enrol` and `gateway_keys` bring the keys for that. `pull`
(with `order`) is what a blade brings itself up to date with, `tree` (with `image`) what puts its
trees in place, which `boot` has started at boot; `lab` puts up simulated blades.
"""
