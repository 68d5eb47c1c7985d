"""Images as scikit-learn takes them: lazy, sliceable, picklable."""

from gandl._plate_map import read_plate_map
from gandl.images._collection import ImageCollection
from gandl.images._intensity import image_range, percentile_range, scale_intensity
from gandl.images._readers import read_image

__all__ = [
    "ImageCollection",
    "image_range",
    "percentile_range",
    "read_image",
    "read_plate_map",
    "scale_intensity",
]
