"""Starting DiWA: the node graph as data, launch files, a process manager and the ``diwa`` command."""
