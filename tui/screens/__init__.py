"""Whole screens: they ask the session, in threads, and hand widgets what came back."""
