"""What happens in which order: a rollout over the blades, and the cycle from sync to blades.

Plain functions that do a thing once; they put `mirror`, `binhost` and `blades` together.
"""
