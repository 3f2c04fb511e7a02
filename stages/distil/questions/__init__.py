"""Sources of questions: one module per source, the field mapping, and subsets.

May import: interface, storage, language.
"""
