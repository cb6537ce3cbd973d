"""Turns encoded bytes into upright 8-bit RGB pixels, or an error with its reason. Start with `decoding`."""

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
