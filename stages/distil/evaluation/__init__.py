"""What a student's answers, words and reasons are worth, in numbers.

May import: interface, storage, language, weights, models, student.
"""
