"""The playroom: a simulated Panda with drawer, slider, button, switch and cube, in MuJoCo.

Importing this package registers the Gymnasium environment ``diwa_sim/Playroom-v0``.
"""

import gymnasium

gymnasium.register(id="diwa_sim/Playroom-v0", entry_point="diwa_sim.environment:PlayroomEnv")
