"""``diwa pipeline``: all stages in order, each a ``diwa`` command in a process of its own."""
