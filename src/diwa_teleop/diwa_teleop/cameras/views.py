"""Whether cameras see what they saw when the data were recorded: the same views, not turned, swapped or moved.

An image shows a trained view if it resembles one of many trained frames. Whether the camera has moved is told by their
mean: where the arm works, pixels change from frame to frame, and weigh little. What counts as the same view is not a
constant but learned from the frames: nearly all of one half have to be recognised by the other half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from diwa_conventions.errors import UserError
from diwa_conventions.images import ImageArray, area_resize

Pixels = npt.NDArray[np.float32]
Kind = Literal["as trained", "moved", "rotated", "mirrored", "swapped", "dark or covered", "another scene"]

_SHARE = 0.02
"""Of the trained frames that may fall outside of what counts as the same view."""
_JUDGED = 120
"""Frames from which that is learned."""
_STRETCH = 20
"""Frames that follow one another resemble each other too much to judge by: every other stretch of them judges."""
_LEAST_FRAMES = 2 * _STRETCH
_COMPARED_PX = 32
"""Side at which images are compared: fine enough to tell views, too coarse for what lies where."""
_SEARCH = 0.12
"""How far a camera may have moved to be recognised, as a share of the image's side."""
_NOISE = 12.0
"""Grey levels of spread that make a pixel no better than another."""
_DARK_LEVEL, _FLAT_LEVEL = 12.0, 4.0
"""Mean brightness and spread over the image below which nothing can be seen."""
_CLEARER = 0.6
"""A turned or swapped view is believed if it leaves at most this share of what the straight one leaves unexplained."""
_TOLD = 0.9
"""Share of the frames that must be recognised as turned for a turn to be ruled out by an image that seems straight."""
_SLACK = 1.5
"""Times what nearly all trained frames leave unexplained: the same view still."""
_LEAST_MATCH = 0.35
"""Below this no two views are the same, however widely the trained frames spread."""
_LEAST_FIT = 0.65
"""Correlation with the mean view, moved back, above which a camera has moved: moved ones reach 0.84, others 0.41."""
_LEAST_MOVE, _LEAST_TURN_DEG = 0.025, 2.0
"""As a share of the side, and in degrees: smaller moves are harmless, and cannot be told from noise."""
_MOST_TURN_DEG = 10.0
"""Where trained frames themselves seem turned by more, or moved by more than _SEARCH, moves cannot be told."""
_ECC = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-4)


@dataclass(frozen=True)
class Orientation:
    """Turned counter-clockwise by ``quarters`` x 90 degrees after mirroring left and right."""

    quarters: int
    mirrored: bool

    def __call__(self, image: Pixels) -> Pixels:
        """(S, S, 3) as such a camera would show it."""
        return np.ascontiguousarray(np.rot90(image[:, ::-1] if self.mirrored else image, self.quarters))

    def undo(self, image: Pixels) -> Pixels:
        """Back to how the camera should show it."""
        turned = np.rot90(image, -self.quarters)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)

    def __str__(self) -> str:
        turn = f"rotated by {90 * self.quarters} degrees" if self.quarters else ""
        return " and ".join(word for word in ("mirrored" if self.mirrored else "", turn) if word)


TURNED = tuple(Orientation(quarters, mirrored) for mirrored in (False, True) for quarters in range(4))[1:]


@dataclass(frozen=True)
class Move:
    """Where the trained view is found in the live one."""

    right: float
    down: float
    """Shares of the image's side."""
    turn_deg: float
    """Clockwise as seen in the image."""

    @property
    def distance(self) -> float:
        return float(np.hypot(self.right, self.down))


@dataclass(frozen=True)
class TrainedView:
    """One camera's view in the data, and how much its frames differ from it."""

    camera: str
    frames: Pixels = field(repr=False)
    """(K, D): trained frames as :func:`_signature` has them."""
    mean: Pixels = field(repr=False)
    """(S, S, 3), 0 to 255."""
    weights: Pixels = field(repr=False)
    """(S, S), 0 to 1: small where pixels change."""
    least_match: float
    """Nearly all frames match their mean at least so well."""
    most_move: float
    """And seem moved by no more than so much; share of the side."""
    most_turn_deg: float
    alike: tuple[Orientation, ...] = ()
    """Ways to turn or mirror the camera that many images do not tell from the right one."""

    @property
    def size_px(self) -> int:
        return int(self.mean.shape[0])

    @property
    def tells_moves(self) -> bool:
        """Not for a camera on the arm: most of its view moves with the arm."""
        return self.most_move <= _SEARCH and self.most_turn_deg <= _MOST_TURN_DEG


@dataclass(frozen=True)
class Verdict:
    """What one camera shows."""

    camera: str
    kind: Kind
    text: str
    """One line for a person."""
    match: float
    """With the trained view as it is now: 1 the same, 0 nothing in common."""

    @property
    def is_good(self) -> bool:
        return self.kind == "as trained"


def trained_view(camera: str, frames: ImageArray) -> TrainedView:
    """From frames (T, S, S, 3) spread over the data, in their order. UserError if they are too few."""
    if len(frames) < _LEAST_FRAMES:
        raise UserError(f"the data hold {len(frames)} frames of the {camera} camera; expected {_LEAST_FRAMES} or more")
    mean = frames.mean(axis=0, dtype=np.float32)
    variance = frames.astype(np.float32).var(axis=0).mean(axis=-1)
    weights = (_NOISE**2 / (_NOISE**2 + variance)).astype(np.float32)
    judging = np.arange(len(frames)) // _STRETCH % 2 == 1
    half = TrainedView(camera, _signatures(frames[~judging]), mean, weights, 0.0, 0.0, 0.0)
    judged = frames[judging]
    judged = judged[np.linspace(0, len(judged) - 1, min(len(judged), _JUDGED)).astype(int)].astype(np.float32)
    matches = np.array([match(half, frame) for frame in judged])
    moves = [move_of(half, frame) for frame in judged[:: max(len(judged) // 40, 1)]]
    return replace(
        half,
        frames=_signatures(frames),
        least_match=max(1.0 - _SLACK * (1.0 - float(np.quantile(matches, _SHARE))), _LEAST_MATCH),
        most_move=max(float(np.quantile([move.distance for move in moves], 1.0 - _SHARE)), _LEAST_MOVE),
        most_turn_deg=max(float(np.quantile([abs(move.turn_deg) for move in moves], 1.0 - _SHARE)), _LEAST_TURN_DEG),
        alike=tuple(turn for turn in TURNED if _told_apart(half, judged, matches, turn) < _TOLD),
    )


def _told_apart(view: TrainedView, frames: Pixels, matches: Pixels, turn: Orientation) -> float:
    """The share of frames (T, S, S, 3) that would be recognised as turned."""
    return float(np.mean([_clearer(m, match(view, turn(frame))) for m, frame in zip(matches, frames, strict=True)]))


def match(view: TrainedView, image: Pixels) -> float:
    """How much an image (S, S, 3) resembles the trained frame that is most like it; 1: the same but for brightness."""
    return float((view.frames @ _signature(image)).max())


def _signatures(frames: ImageArray) -> Pixels:
    return np.stack([_signature(frame.astype(np.float32)) for frame in frames])


def _signature(image: Pixels) -> Pixels:
    """(D,): a small image without its brightness and contrast, so that products are correlations."""
    small = cv2.resize(image, (_COMPARED_PX, _COMPARED_PX), interpolation=cv2.INTER_AREA).ravel()
    small = small - small.mean()
    return np.asarray(small / max(float(np.linalg.norm(small)), 1e-6), dtype=np.float32)


def _best_fit(view: TrainedView, image: Pixels) -> tuple[float, int, int]:
    """The correlation, and by how many pixels to the right and down the trained view is found."""
    margin = max(round(_SEARCH * view.size_px), 1)
    inside = slice(margin, view.size_px - margin)
    mask = np.repeat(view.weights[inside, inside, None], 3, axis=2)
    scores = cv2.matchTemplate(image, view.mean[inside, inside], cv2.TM_CCOEFF_NORMED, mask=mask)
    scores = np.where(np.isfinite(scores), scores, -1.0)
    down, right = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return float(scores[down, right]), int(right) - margin, int(down) - margin


def move_of(view: TrainedView, image: Pixels) -> Move:
    """How the camera seems to have moved."""
    warp = _warp(view, image)
    middle = np.array([(view.size_px - 1) / 2, (view.size_px - 1) / 2, 1.0])
    moved = warp @ middle - middle[:2]
    turn_deg = float(np.degrees(np.arctan2(warp[1, 0], warp[0, 0])))
    return Move(float(moved[0]) / view.size_px, float(moved[1]) / view.size_px, turn_deg)


def _warp(view: TrainedView, image: Pixels) -> Pixels:
    """From the trained view's pixels to the image's (2, 3): ECC from the best fit on, or that alone if ECC fails."""
    _, right, down = _best_fit(view, image)
    warp = np.array([[1.0, 0.0, right], [0.0, 1.0, down]], np.float32)
    still = (view.weights > np.quantile(view.weights, 0.25)).astype(np.uint8)
    try:
        found = cv2.findTransformECC(
            _grey(view.mean), _grey(image), warp.copy(), cv2.MOTION_EUCLIDEAN, _ECC, inputMask=still, gaussFiltSize=5
        )
    except cv2.error:
        return warp
    return np.asarray(found[1], dtype=np.float32)


def _moved_back(view: TrainedView, image: Pixels) -> Pixels:
    """The image as the camera would have taken it where it was."""
    size = (view.size_px, view.size_px)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    back = cv2.warpAffine(image, _warp(view, image), size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(back, dtype=np.float32)


def _grey(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.float32)


def verdicts(views: Mapping[str, TrainedView], live: Mapping[str, ImageArray]) -> list[Verdict]:
    """One for each camera of ``views``; ``live`` has its image (H, W, 3), square."""
    return [_verdict(camera, views, live[camera]) for camera in views]


def _verdict(camera: str, views: Mapping[str, TrainedView], live: ImageArray) -> Verdict:
    view = views[camera]
    image = area_resize(live, view.size_px).astype(np.float32)
    if image.mean() < _DARK_LEVEL or image.std(axis=(0, 1)).max() < _FLAT_LEVEL:
        return Verdict(camera, "dark or covered", f"is dark or covered (brightness {image.mean():.0f} of 255)", 0.0)
    straight = match(view, image)
    turned = {turn: match(view, turn.undo(image)) for turn in TURNED}
    # Nobody mounts a camera mirrored: a view that looks the same either way is a turned one.
    best = max(turned, key=lambda turn: turned[turn] if not turn.mirrored else _but_clearer(turned[turn]))
    others = {name: match(other, image) for name, other in views.items() if name != camera}
    other = max(others, key=lambda name: others[name], default="")
    rival = max(turned[best], others.get(other, -1.0))
    if _clearer(rival, straight) and other and rival == others[other] >= views[other].least_match:
        text = f"shows the view of the {other} camera: swap the two cameras' serial numbers or topics"
        return Verdict(camera, "swapped", text, straight)
    if _clearer(rival, straight) and rival == turned[best] >= view.least_match:
        kind: Kind = "mirrored" if best.mirrored else "rotated"
        return Verdict(camera, kind, f"is {best}: mount it, or set its driver, as it was", straight)
    return _in_place(view, image, straight)


def _clearer(rival: float, straight: float) -> bool:
    return 1.0 - rival < _CLEARER * (1.0 - straight)


def _but_clearer(value: float) -> float:
    """What an upright view has to reach at least to be preferred to a mirrored one of this match."""
    return 1.0 - (1.0 - value) / _CLEARER


def _in_place(view: TrainedView, image: Pixels, straight: float) -> Verdict:
    """The verdict on a camera that is neither turned nor swapped."""
    resembles = straight >= view.least_match
    if not view.tells_moves and resembles:
        text = f"is as trained as far as its moving view tells (match {straight:.2f}{_alike_text(view)})"
        return Verdict(view.camera, "as trained", text, straight)
    if view.tells_moves and (resembles or _best_fit(view, _moved_back(view, image))[0] >= _LEAST_FIT):
        return _moved(view, image, straight)
    text = f"shows another scene, or has moved far (match {straight:.2f}; as trained from {view.least_match:.2f})"
    return Verdict(view.camera, "another scene", text, straight)


def _moved(view: TrainedView, image: Pixels, straight: float) -> Verdict:
    move = move_of(view, image)
    if move.distance > view.most_move or abs(move.turn_deg) > view.most_turn_deg:
        text = f"has moved: its view is {_move_text(move)}; move it back until this says that it is as trained"
        return Verdict(view.camera, "moved", text, straight)
    least = f"moves under {100 * view.most_move:.1f} % of the image or {view.most_turn_deg:.0f} degrees cannot be told"
    return Verdict(
        view.camera, "as trained", f"is as trained (match {straight:.2f}; {least}{_alike_text(view)})", straight
    )


def _alike_text(view: TrainedView) -> str:
    return f"; it may look the same when {', or '.join(map(str, view.alike))}" if view.alike else ""


def _move_text(move: Move) -> str:
    across = f"{100 * abs(move.right):.1f} % to the {'right' if move.right > 0 else 'left'}"
    along = f"{100 * abs(move.down):.1f} % {'down' if move.down > 0 else 'up'}"
    return f"{across} and {along} (200 px: {200 * move.distance:.0f} px), turned by {move.turn_deg:+.1f} degrees"


def picture(views: Mapping[str, TrainedView], live: Mapping[str, ImageArray], found: list[Verdict]) -> ImageArray:
    """Live beside trained, a row per camera, with the verdict above each."""
    rows = []
    for verdict in found:
        trained = views[verdict.camera].mean.astype(np.uint8)
        panes = [
            cv2.resize(image, (320, 320), interpolation=cv2.INTER_LINEAR) for image in (live[verdict.camera], trained)
        ]
        row = np.zeros((360, 650, 3), np.uint8)
        row[40:, :320], row[40:, 330:] = panes
        colour = (120, 220, 120) if verdict.is_good else (255, 120, 90)
        caption = f"{verdict.camera}: {verdict.kind}   (live left, trained mean right)"
        cv2.putText(row, caption, (6, 26), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
        rows.append(row)
    return np.concatenate(rows)
