from setuptools import find_packages, setup

setup(
    name="diwa_policy",
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    package_data={"diwa_policy": ["presets/*.yaml", "templates/*.j2"], "diwa_policy.finetune": ["templates/*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/diwa_policy"]),
        ("share/diwa_policy", ["package.xml"]),
    ],
    zip_safe=False,
    maintainer="DiWA for robots",
    maintainer_email="maintainers@diwa.invalid",
    description="Policies that improve in dreams, and how far to trust them.",
    license="Apache-2.0",
    extras_require={"test": ["pytest", "hypothesis"]},
    entry_points={
        "console_scripts": [
            "policy = diwa_policy.nodes.policy:main",
            "pretrain = diwa_policy.nodes.pretrain:main",
            "reward = diwa_policy.nodes.reward:main",
            "finetune = diwa_policy.nodes.finetune:main",
        ],
    },
)
