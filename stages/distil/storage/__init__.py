"""What stages keep and hand to each other: questions, tables, stores that survive a kill.

May import: interface.
"""
