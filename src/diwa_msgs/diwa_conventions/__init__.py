"""What every package agrees on: actions, tasks, topics, errors. Plain Python, but for the modules that nodes use.

``qos``, ``messages`` and ``node_main`` import ROS; the learning core imports none of them.
"""
