"""Whether the pipeline works on this machine and gives the committed results.

May import: all other rooms.
"""
