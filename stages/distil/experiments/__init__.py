"""DVC experiments: the papers' figures, and the comparison of two runs.

May import: interface, storage, language, weights, models, student,
evaluation, reporting.
"""
