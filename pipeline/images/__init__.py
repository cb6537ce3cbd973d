"""Encoded bytes become upright 8-bit RGB pixels, or a reason why not. `decoding` says how."""

from pipeline.images.decoding import (
    DECODER_VERSION,
    IMAGE_SUFFIXES,
    MAX_BYTES,
    MAX_PIXELS,
    DecodedImage,
    ImageError,
    decode,
    read_size,
)

__all__ = [
    "DECODER_VERSION",
    "IMAGE_SUFFIXES",
    "MAX_BYTES",
    "MAX_PIXELS",
    "DecodedImage",
    "ImageError",
    "decode",
    "read_size",
]
