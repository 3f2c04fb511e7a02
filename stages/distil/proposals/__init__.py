"""Entries for `datasets`, proposed from the files of a data set: which column is which field.

May import: questions, language, storage, interface.
"""
