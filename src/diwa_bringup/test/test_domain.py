import pytest

from diwa_bringup import domain
from diwa_bringup.nodes import domain_listener
from diwa_bringup.robot_graphs import SIM
from diwa_conventions.errors import UserError

SPECS = SIM.specs([])


def test_empty_domain_is_silent():
    assert domain.check_domain(SPECS, [], 0) is None


def test_foreign_nodes_are_a_warning_with_names_domain_and_another_id():
    warning = domain.check_domain(SPECS, ["/camera", "/lab/arm"], 7)
    assert warning is not None and "\n" not in warning
    assert "ROS domain 7 has 2 foreign nodes: /camera, /lab/arm" in warning and "ROS_DOMAIN_ID=8" in warning


def test_many_foreign_nodes_are_counted():
    warning = domain.check_domain(SPECS, [f"/n{i}" for i in range(8)], 7)
    assert warning is not None and "/n4 and 3 more" in warning


def test_a_node_of_the_same_full_name_is_an_error():
    with pytest.raises(UserError, match=r"/diwa/playroom runs already in ROS domain 7; .*ROS_DOMAIN_ID=8"):
        domain.check_domain(SPECS, ["/camera", "/diwa/playroom"], 7)


def test_same_name_in_another_namespace_is_only_foreign():
    assert domain.check_domain(SIM.specs(["namespace:=other"]), ["/diwa/playroom"], 7) is not None


@pytest.mark.parametrize("text", ["x", "-1", "233", "1.5"])
def test_domain_id_that_dds_cannot_use_is_refused(monkeypatch: pytest.MonkeyPatch, text: str):
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    with pytest.raises(UserError, match=f"ROS_DOMAIN_ID is '{text}'"):
        domain.current_domain()


@pytest.mark.parametrize(("text", "number"), [("", 0), ("0", 0), ("42", 42)])
def test_domain_id_of_the_shell(monkeypatch: pytest.MonkeyPatch, text: str, number: int):
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    assert domain.current_domain() == number


def test_proposed_domain_differs_and_is_in_range():
    assert all(domain.other_domain(d) != d and 1 <= domain.other_domain(d) <= 101 for d in range(233))


def test_free_domain_skips_those_with_nodes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(domain.os, "getpid", lambda: 10)
    monkeypatch.setattr(domain, "nodes_in_domain", lambda number: ["/busy"] if number < 13 else [])
    assert domain.free_domain() == 13


def test_shell_without_ros_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path):
    (tmp_path / "rclpy.py").write_text("raise ModuleNotFoundError(\"No module named 'rclpy'\")")
    path = domain.os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{path}")
    with pytest.raises(UserError, match=r"No module named 'rclpy'.*source env.sh"):
        domain.nodes_in_domain(1)


class Domain:
    """Nodes that answer a newcomer at different times; its clock goes on while one sleeps."""

    def __init__(self, answers_s: dict[str, float]) -> None:
        self.answers_s, self.now_s = answers_s, 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, duration_s: float) -> None:
        self.now_s += duration_s

    def visible(self) -> set[str]:
        return {name for name, at_s in self.answers_s.items() if at_s <= self.now_s}


@pytest.mark.parametrize(
    ("answers_s", "names", "end_s"),
    [
        ({}, ["/diwa/playroom"], domain_listener.LISTEN_S),
        ({"/camera": 0.2, "/diwa/playroom": 3.2}, ["/diwa/playroom"], 3.2 + domain_listener.SETTLE_S),
        ({"/camera": 0.2}, ["/diwa/playroom"], domain_listener.LISTEN_S),
        ({"/camera": 0.2, "/lab/arm": 0.6}, [], 0.2 + domain_listener.SETTLE_S),
    ],
)
def test_a_node_asked_for_is_found_however_early_another_answers(monkeypatch, answers_s, names, end_s):
    simulated = Domain(answers_s)
    monkeypatch.setattr(domain_listener, "time", simulated)
    assert domain_listener.listen(simulated.visible, names) == set(answers_s)
    assert simulated.now_s == pytest.approx(end_s, abs=0.11)
