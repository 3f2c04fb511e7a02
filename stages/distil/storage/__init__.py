"""What stages keep and exchange: questions, tables, and stores that survive a kill.

May import: interface.
"""
