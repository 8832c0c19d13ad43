"""Blades: which there are, how the headnode reaches them, how one pulls, and simulated ones.

`inventory` knows the blades of a class and their rings; `transport` runs a command on many at once;
`pull` is the script that a blade brings itself up to date with; `lab` puts up simulated blades.
"""
