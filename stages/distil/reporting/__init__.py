"""The report, the summary and the model card.

May import: interface, storage, language, weights, models, student,
evaluation.
"""
