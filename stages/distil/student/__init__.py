"""The student: its batches, losses, training, answers and export.

May import: interface, storage, language, weights, encoding, models.
"""
