"""Measures of the student's answers, salient words and rationales.

May import: interface, storage, language, weights, models, student.
"""
