"""Several machines: a pool of workers on a Ray cluster, each with a copy of a model.

May import: interface.
"""
