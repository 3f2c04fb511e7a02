"""A question joined with all its targets, and the data card.

May import: interface, storage, language, weights, models.
"""
