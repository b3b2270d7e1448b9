"""The data sheet as one self-contained page, in the style of the reports."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harmbench.cli.check_text import image_rows, number_of
from harmbench.data.problems import printable
from harmbench.data.sheet import DataSheet

TEMPLATES = Path(__file__).parent / "templates"


def page(sheet: DataSheet, verdict: str, outlook: list[str]) -> str:
    """Return the page as HTML that needs no other file.

    Parameters
    ----------
    sheet : DataSheet
    verdict : str
        Whether a run starts.
    outlook : list of str
        What a run can and cannot compute.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    import reports

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    css = Path(str(reports.__file__)).parent / "templates" / "report.css"
    content: dict[str, Any] = {
        "sheet": sheet,
        "verdict": verdict,
        "outlook": outlook,
        "images": image_rows(sheet.images) if sheet.facts else None,
        "confounding": [
            (c.name, number_of(c.value, c.chance), c.meaning) for c in sheet.confounding
        ],
        "thumbnails": {
            site: [(title, png(image)) for title, image in shown]
            for site, shown in sheet.thumbnails.items()
        },
        "style": Markup(css.read_text(encoding="utf-8")),
    }
    return environment.get_template("check.html.j2").render(content) + "\n"


def png(image: NDArray[np.float32]) -> str:
    """Return a slice, upright and clipped to [0, 1], as a PNG in base64.

    Parameters
    ----------
    image : ndarray, shape (h, w)
        First axis to the right, second to the front.
    """
    from matplotlib.image import imsave

    stream = io.BytesIO()
    imsave(stream, np.clip(np.rot90(image), 0, 1), cmap="gray", vmin=0, vmax=1, format="png")
    return base64.b64encode(stream.getvalue()).decode()
