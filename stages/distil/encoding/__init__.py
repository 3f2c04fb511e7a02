"""Questions as the student's tokens, in memory-mapped files.

May import: interface, storage, language, weights, models, student.
"""
