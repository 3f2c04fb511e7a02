"""The assembled data set as one student's tokens: what it reads, and what does not fit.

May import: interface, storage, language, weights.
"""
