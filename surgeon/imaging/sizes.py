"""Whether a model takes images of another size than its own."""

from __future__ import annotations

import torch

from surgeon.subject import Subject


def refusal(subject: Subject, height: int, width: int) -> str | None:
    """Why the model takes no images of a size; None if it does.

    Found by a forward of one black image.
    """
    channels = subject.preprocessing.input_size[0]
    try:
        with torch.no_grad():
            subject(torch.zeros(1, channels, height, width))
    except Exception as cause:  # models refuse a size in ways of their own
        return str(cause).splitlines()[0][:120] if str(cause) else type(cause).__name__
    return None
