"""Operators, cameras and the play recorder."""
