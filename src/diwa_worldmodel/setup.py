from setuptools import find_packages, setup

setup(
    name="diwa_worldmodel",
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={
        "diwa_worldmodel": ["presets/*.yaml"],
        "diwa_worldmodel.dataset": ["templates/*.j2"],
        "diwa_worldmodel.evaluation": ["templates/*.j2"],
    },
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_worldmodel"]),
        ("share/diwa_worldmodel", ["package.xml"]),
    ],
    zip_safe=False,
    maintainer="DiWA for robots",
    maintainer_email="maintainers@diwa.invalid",
    description="From bags to a data set, from a data set to a world model.",
    license="Apache-2.0",
    extras_require={"test": ["pytest", "hypothesis"]},
    entry_points={
        "console_scripts": [
            "train = diwa_worldmodel.nodes.train:main",
            "importer = diwa_worldmodel.nodes.importer:main",
        ],
    },
)
