"""Turns encoded bytes into upright 8-bit RGB pixels, or an error with its reason. Start with `decoding`."""

from pipeline.images.decoding import (
    DECODER_VERSION,
    IMAGE_SUFFIXES,
    LACKS_END,
    MAX_BYTES,
    MAX_PIXELS,
    ORIGINAL_SUFFIXES,
    DecodedImage,
    ImageError,
    SampleRules,
    Truncated,
    check_header,
    decode,
    read_orientation,
    read_size,
)

__all__ = [
    "DECODER_VERSION",
    "IMAGE_SUFFIXES",
    "LACKS_END",
    "MAX_BYTES",
    "MAX_PIXELS",
    "ORIGINAL_SUFFIXES",
    "DecodedImage",
    "ImageError",
    "SampleRules",
    "Truncated",
    "check_header",
    "decode",
    "read_orientation",
    "read_size",
]
