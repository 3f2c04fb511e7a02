"""Where questions come from: one module a source, field mapping, subsets.

May import: interface, storage, language.
"""
