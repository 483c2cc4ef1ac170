"""Templates of HTML pages, which share frame and charts."""

from __future__ import annotations

import functools

import jinja2

from diwa_worldmodel.dataset.quality import clock, counted
from diwa_worldmodel.dataset.report import data_url, percent


@functools.cache
def page_template(name: str, *packages: str) -> jinja2.Template:
    """A template in the folder of one of ``packages``, or of the pages before them.

    Every word put into it is escaped, an unknown one is an error.
    """
    folders = (*packages, "diwa_worldmodel.evaluation", "diwa_worldmodel.dataset")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in folders]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": clock, "counted": counted, "percent": percent}
    environment.filters |= {"data_url": data_url, "film_url": film_url}
    return environment.get_template(name)


def film_url(content: bytes) -> str:
    return data_url(content).replace("image/jpeg", "video/mp4", 1)
