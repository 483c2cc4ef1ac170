from setuptools import find_packages, setup

setup(
    name="diwa_sim",
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={"diwa_sim": ["assets/*.xml"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_sim"]),
        ("share/diwa_sim", ["package.xml"]),
    ],
    zip_safe=True,
    maintainer="DiWA for robots",
    maintainer_email="maintainers@diwa.invalid",
    description="The playroom: a simulated Panda with two cameras, tasks and a scripted operator.",
    license="Apache-2.0",
    extras_require={"test": ["pytest", "hypothesis"]},
    entry_points={
        "console_scripts": [
            "playroom = diwa_sim.nodes.playroom:main",
            "operator = diwa_sim.nodes.operator:main",
        ]
    },
)
