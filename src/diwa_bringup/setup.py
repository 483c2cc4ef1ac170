from glob import glob

from setuptools import find_packages, setup

package_name = "diwa_bringup"

setup(
    name=package_name,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={"diwa_bringup": ["dds/*.xml"], "diwa_bringup.report": ["templates/*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{package_name}"]),
        (f"share/{package_name}", ["package.xml"]),
        (f"share/{package_name}/launch", glob("launch/*.launch.py")),
        (f"share/{package_name}/layouts", glob("layouts/*.json")),
        # colcon puts <prefix>/bin on PATH; ROS executables stay in lib/ (setup.cfg).
        ("bin", ["bin/diwa"]),
    ],
    # honcho, tyro, rich, av, PyYAML and opencv are pinned in requirements/, beside those of the other packages.
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=False,
    maintainer="DiWA for robots",
    maintainer_email="maintainers@diwa.invalid",
    description="Node graph as data, launch files, a process manager and the diwa command.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "film_recorder = diwa_bringup.nodes.film_recorder:main",
            "trial_runner = diwa_bringup.nodes.trial_runner:main",
            "bag_player = diwa_bringup.nodes.bag_player:main",
        ],
    },
)
