"""Invented days that are like real ones: who asks for what, when."""
