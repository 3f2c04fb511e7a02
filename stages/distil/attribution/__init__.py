"""Scores of how much each word of a question moves a teacher's answer.

May import: interface, storage, language, weights, models, cluster.
"""
