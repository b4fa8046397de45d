"""Moves what the tokens of one grid say to the places of another."""

import numpy as np

from pgvision.arrays import FloatArray


def regrid_matrix(old: int, new: int) -> FloatArray:
    """Return the ``(new * new, old * old)`` matrix that reads one square grid at another's places.

    Values are interpolated linearly between the middles of cells, and carried on linearly beyond
    the outermost: an offset "from here to the object's edge" stays right at every place.

    Example:
        >>> regrid_matrix(2, 4) @ np.array([0.0, 1.0, 0.0, 1.0], np.float32)
        array([-0.25,  0.25,  0.75,  1.25, -0.25,  0.25,  0.75,  1.25, -0.25,
                0.25,  0.75,  1.25, -0.25,  0.25,  0.75,  1.25], dtype=float32)
    """
    places = (np.arange(new) + 0.5) * old / new - 0.5
    low = np.clip(np.floor(places).astype(int), 0, max(old - 2, 0))
    line = np.zeros((new, old), np.float32)
    share = places - low
    line[np.arange(new), low] = 1 - share
    line[np.arange(new), np.minimum(low + 1, old - 1)] += share
    both: FloatArray = np.kron(line, line).astype(np.float32)
    return both
