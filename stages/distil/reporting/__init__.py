"""The report, the summary, the model card, and data for other trainers.

May import: interface, storage, language, weights, models, student,
evaluation.
"""
