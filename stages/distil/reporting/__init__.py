"""Results for people: the report, the summary, the model card.

May import: interface, storage, language, weights, models, student,
evaluation.
"""
