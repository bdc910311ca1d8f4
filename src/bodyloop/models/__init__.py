"""Models as data: cards, the registry of names, weight files in every format, and where they are fetched.

Begin with `registry` (names to cards and files), `cards` (what a card says) and `checkpoints` (weight files).
Nothing here builds or runs a network.
"""
