"""A short recording driven by a VIVE controller, through every real node, with tracking lost in the middle."""

import pytest
from vive_session import LOST_S, Measures, Session, why_not

SECONDS = 9.0


@pytest.fixture(scope="module")
def measures(tmp_path_factory: pytest.TempPathFactory) -> Measures:
    pytest.importorskip("openvr", reason="the VIVE's client library: make setup EXTRA=hardware")
    if why_not():
        pytest.skip(why_not())
    measures = Session(tmp_path_factory.mktemp("vive"), SECONDS).record()
    print(measures)
    return measures


def test_the_hand_s_motion_became_actions_and_the_trigger_gripper_commands(measures: Measures):
    assert measures.moving_actions > 10
    assert measures.gripper_commands >= 1


def test_the_arm_followed_the_hand_through_the_calibrated_frame(measures: Measures):
    assert measures.before is not None and measures.after is not None
    for following in (measures.before, measures.after):
        assert following.hand_step_m > 0.01
        assert following.step_error_m < 0.25 * following.hand_step_m


def test_lost_tracking_stopped_the_arm_before_it_was_found_again_though_the_hand_went_on_with_the_clutch_held(
    measures: Measures,
):
    assert measures.hand_meanwhile_m > 0.1
    assert max(measures.clutch_released_s, measures.last_motion_s, measures.target_stood_s) < LOST_S
    assert measures.crept_m < 1e-3
