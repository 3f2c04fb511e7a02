"""Many runs: the papers' figures from DVC experiments, and comparing two runs.

May import: interface, storage, language, weights, models, student,
evaluation, reporting.
"""
