"""How the student reads, learns and answers.

May import: interface, storage, language, weights, models.
"""
