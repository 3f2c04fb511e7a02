"""Models as files: fetching and checking their folders, and identifying their weights.

May import: interface, storage.
"""
