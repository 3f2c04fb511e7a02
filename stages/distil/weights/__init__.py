"""Models as files: fetching them into folders, and identifying their weights.

May import: interface, storage.
"""
