"""Checks that the pipeline works on this machine and reproduces the committed results.

May import: all other rooms.
"""
