import pytest

from diwa_bringup import domain
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
