"""Where the calibration of an operator's tracker is kept. Standard library only: launch files import it."""

CALIBRATION_FILE = "operator_calibration.yaml"
"""Where ``diwa calibrate operator`` writes and the node ``vive`` reads unless told otherwise."""
NO_CALIBRATION = "none"
"""Instead of a file: the tracker's world is taken for the arm's."""
