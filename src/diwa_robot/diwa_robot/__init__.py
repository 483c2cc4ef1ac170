"""The one gate to the arm: the command guard; drivers."""
