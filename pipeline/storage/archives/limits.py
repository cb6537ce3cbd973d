"""Limits for archives from strangers."""

MOST_MEMBERS = 10_000_000
"""Members of one archive. Those after it are one row for the archive."""
MOST_HEADER_BYTES = 2**20
"""Bytes of a long name, or of a PAX header, which holds names and times of one member."""
MOST_NAME_BYTES = 65_535
"""Bytes of the name of a member, as in a zip. Linux takes 4,095, and S3 1,024."""
MOST_RATIO = 200
"""Bytes that one stored byte may unpack to, for members of more than `RATIO_FROM` bytes. A PNG or JPEG in a
zip unpacks to about what is stored; a BMP of one colour to a thousand times as much."""
RATIO_FROM = 2**20
MOST_ROW_GROUP = 512 * 2**20
"""Bytes of the images of one row group of a Parquet file, unpacked: they are unpacked together."""
MOST_FOOTER = 64 * 2**20
"""Bytes of the footer of a Parquet file."""
DEEPEST_LINK = 8
"""Links from one name to the next within a tar."""
