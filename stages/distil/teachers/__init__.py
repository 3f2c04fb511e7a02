"""Teachers' texts: in-context examples, backends, and the store of completions.

May import: interface, storage, language, weights, models, cluster.
"""
