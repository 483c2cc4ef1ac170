"""Services called from the command line, with a real service in another process's place: this one."""

import threading
from collections.abc import Iterator

import pytest
import rclpy
from diwa_msgs.srv import Annotate as AnnotateService
from rclpy.executors import SingleThreadedExecutor

from diwa_bringup.annotate import Annotate
from diwa_conventions.errors import UserError
from diwa_conventions.topics import ANNOTATE_SERVICE


@pytest.fixture
def requests() -> Iterator[list[AnnotateService.Request]]:
    """A recorder that accepts skills and refuses the empty one; what it was asked."""
    rclpy.init()
    node = rclpy.create_node("recorder", namespace="diwa")
    seen: list[AnnotateService.Request] = []

    def answer(request: AnnotateService.Request, response: AnnotateService.Response) -> AnnotateService.Response:
        seen.append(request)
        response.success, response.message = bool(request.annotation.skill), f"heard {request.annotation.skill!r}"
        return response

    node.create_service(AnnotateService, ANNOTATE_SERVICE, answer)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=serve)
    thread.start()
    yield seen
    over.set()
    thread.join()
    executor.shutdown()
    rclpy.shutdown()


def test_annotation_reaches_the_recorder_field_by_field(requests, capsys):
    assert Annotate("open-drawer", failure=True, note="slipped").run() == 0
    annotation = requests[0].annotation
    assert (annotation.skill, annotation.success, annotation.note) == ("open-drawer", False, "slipped")
    assert capsys.readouterr().out == "heard 'open-drawer'\n"


def test_refusal_is_an_exit_code_of_1_and_its_reason(requests, capsys):
    assert Annotate("").run() == 1
    assert capsys.readouterr().err == "heard ''\n"


def test_service_that_nobody_offers_is_one_line():
    with pytest.raises(UserError, match="nobody offers /nowhere/annotate: is the recorder running"):
        Annotate("open-drawer", namespace="nowhere").run()
