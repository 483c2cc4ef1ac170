"""Picture errors by horizon, against baselines: from which step on is a dream no better than what costs nothing?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diwa_worldmodel.evaluation.intervals import Estimate, estimate, plain
from diwa_worldmodel.evaluation.open_loop import AREAS, OPEN_LOOP, OTHER_ACTIONS, PREDICTORS, TRIVIAL, WHOLE


@dataclass(frozen=True)
class CameraErrors:
    """Mean squared errors of one camera's pixels in [0, 1], by horizon (H,)."""

    camera: str
    errors: dict[str, dict[str, Estimate]]
    """By AREAS and PREDICTORS."""
    differences: dict[str, Estimate]
    """Open loop minus each of TRIVIAL and minus OTHER_ACTIONS, window by window, of whole pictures."""

    def not_better_at(self, baseline: str, until: int) -> list[int]:
        """Horizons (1 to ``until``) at which the open loop's mean error is not below the baseline's."""
        return [int(h) + 1 for h in np.flatnonzero(~(self.differences[baseline].mean[:until] < 0.0))]

    def not_surely_better_at(self, baseline: str, until: int) -> list[int]:
        """The same, of the whole 95% interval of the difference."""
        return [int(h) + 1 for h in np.flatnonzero(~(self.differences[baseline].high[:until] < 0.0))]

    @property
    def horizon(self) -> int:
        return len(self.errors[WHOLE][OPEN_LOOP].mean)

    def to_json(self) -> dict[str, Any]:
        return {
            "mse": {
                area: {word: one.to_json() for word, one in by_word.items()} for area, by_word in self.errors.items()
            },
            "psnr_db": {word: plain(psnr_db(one.mean)) for word, one in self.errors[WHOLE].items()},
            "open_loop_minus": {word: one.to_json() for word, one in self.differences.items()},
            "not_better_at": {word: self.not_better_at(word, self.horizon) for word in self.differences},
            "not_surely_better_at": {word: self.not_surely_better_at(word, self.horizon) for word in self.differences},
        }


def camera_errors(camera: str, errors: npt.NDArray[Any], stretches: npt.NDArray[Any], seed: int = 0) -> CameraErrors:
    """From errors (N, P, A, H) of N windows."""
    by_area = {
        area: {word: estimate(errors[:, p, a], stretches, seed) for p, word in enumerate(PREDICTORS)}
        for a, area in enumerate(AREAS)
    }
    whole = errors[:, :, AREAS.index(WHOLE)]
    own = whole[:, PREDICTORS.index(OPEN_LOOP)]
    differences = {
        word: estimate(own - whole[:, PREDICTORS.index(word)], stretches, seed) for word in (*TRIVIAL, OTHER_ACTIONS)
    }
    return CameraErrors(camera, by_area, differences)


def psnr_db(mse: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Peak signal to noise ratio [dB] of mean squared errors of pixels in [0, 1]."""
    return np.asarray(-10.0 * np.log10(np.maximum(mse, 1e-12)))
