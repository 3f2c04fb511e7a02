"""Which words of a question an answer depends on: prompts, methods, tuning, scores.

May import: interface, storage, language, weights, models.
"""
