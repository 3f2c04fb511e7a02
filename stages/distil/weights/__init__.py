"""A model as files: fetching it into a folder, and what tells its weights from others'.

May import: interface.
"""
