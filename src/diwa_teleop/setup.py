from setuptools import find_packages, setup

setup(
    name="diwa_teleop",
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_teleop"]),
        ("share/diwa_teleop", ["package.xml"]),
    ],
    zip_safe=True,
    maintainer="DiWA for robots",
    maintainer_email="maintainers@diwa.invalid",
    description="Operators, cameras and the play recorder.",
    license="Apache-2.0",
    extras_require={"test": ["pytest", "hypothesis"]},
    entry_points={
        "console_scripts": [
            "teleop = diwa_teleop.nodes.teleop:main",
            "keyboard = diwa_teleop.nodes.keyboard:main",
            "gamepad = diwa_teleop.nodes.gamepad:main",
            "vive = diwa_teleop.nodes.vive:main",
            "spacemouse = diwa_teleop.nodes.spacemouse:main",
            "camera = diwa_teleop.nodes.camera:main",
            "realsense = diwa_teleop.nodes.realsense:main",
            "azure_kinect = diwa_teleop.nodes.azure_kinect:main",
            "webcam = diwa_teleop.nodes.webcam:main",
            "recorder = diwa_teleop.nodes.recorder:main",
        ]
    },
)
