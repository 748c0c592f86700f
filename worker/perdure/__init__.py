"""Durable workflows on PostgreSQL: write plain ``async`` functions, every step is recorded, any worker can go on.

This module re-exports the public names and holds nothing else.
"""
