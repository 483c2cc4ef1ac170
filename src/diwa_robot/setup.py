from setuptools import find_packages, setup

setup(
    name="diwa_robot",
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_robot"]),
        ("share/diwa_robot", ["package.xml"]),
        (
            "share/diwa_robot/config",
            ["config/franka_ros2.yaml", "config/multipanda.yaml", "config/multipanda_cartesian.yaml"],
        ),
    ],
    zip_safe=True,
    maintainer="DiWA for robots",
    maintainer_email="maintainers@diwa.invalid",
    description="The one gate to the arm: the command guard; drivers.",
    license="Apache-2.0",
    extras_require={"test": ["pytest", "hypothesis"]},
    entry_points={
        "console_scripts": [
            "command_guard = diwa_robot.nodes.command_guard:main",
            "fci_driver = diwa_robot.nodes.fci_driver:main",
            "crisp_driver = diwa_robot.nodes.crisp_driver:main",
        ]
    },
)
