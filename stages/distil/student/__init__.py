"""The student: encoding, training, answering, export.

May import: interface, storage, language, weights, models.
"""
