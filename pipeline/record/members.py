"""Settles the members of archives in the database of `ListedImages`: double names, links, and list entries.

It runs in DuckDB, because a run may have a hundred million members. The tables are `named` and `members` of
`pipeline.record.listed`.
"""

from __future__ import annotations

import logging

import duckdb

from pipeline.storage.archives.limits import DEEPEST_LINK
from pipeline.storage.chains import PACKED

logger = logging.getLogger(__name__)

_EXAMPLES = 3


def is_chained(column: str) -> str:
    """Return the SQL condition that a URI is a chained one."""
    return f"regexp_matches({column}, '^({'|'.join(PACKED)})://.*::', 's')"


def settle_members(db: duckdb.DuckDBPyConnection) -> None:
    """Keep one member for each name, resolve links, and give the images of lists their places.

    Of members with one name the last counts, as when an archive is unpacked. A link gets the place of the
    file that it leads to, or a problem. An image of `named` that is a member moves to `members`; if the list
    gives another ETag than the archive has, it stays, and its row will say that it changed.
    """
    _resolve_hard_links(db)
    _keep_last(db)
    _resolve_links(db)
    db.execute(
        """UPDATE members SET wanted = true FROM named n
        WHERE members.image_uri = n.image_uri AND (n.etag IS NULL OR n.etag = members.etag)"""
    )
    db.execute("DELETE FROM members WHERE NOT wanted")
    db.execute(
        """DELETE FROM named USING members m
        WHERE named.image_uri = m.image_uri AND (named.etag IS NULL OR named.etag = m.etag)"""
    )


def _resolve_hard_links(db: duckdb.DuckDBPyConnection) -> None:
    """Give each hard link the place of the last file of this name before it, as when an archive is unpacked.

    So a hard link to its own name, which tar writes for a file that is named twice, is that file. A hard link
    to another link, or to a later file, is resolved with the symbolic links.
    """
    db.execute(
        """UPDATE members SET size_bytes = p.size_bytes, "offset" = p."offset", length = p.length,
            compression = p.compression, problem = p.problem, target = NULL
        FROM (
            SELECT l.image_uri, l.position, max_by(f, f.position) AS f
            FROM members l JOIN members f ON l.target = f.image_uri AND f.position < l.position
            WHERE l.hard AND f.target IS NULL GROUP BY ALL) AS found(image_uri, position, p)
        WHERE members.image_uri = found.image_uri AND members.position = found.position"""
    )


def _keep_last(db: duckdb.DuckDBPyConnection) -> None:
    db.execute(
        """CREATE TEMP TABLE twice AS
        SELECT image_uri, max(position) AS last, count(*) - 1 AS others, bool_or(wanted) AS wanted
        FROM members GROUP BY image_uri HAVING count(*) > 1"""
    )
    found = db.execute("SELECT sum(others)::BIGINT FROM twice").fetchall()[0][0]
    if found:
        names = db.execute(f"SELECT image_uri FROM twice ORDER BY 1 LIMIT {_EXAMPLES}").fetchall()
        logger.warning(
            "%d members have the name of a later member of their archive, which counts: %s",
            found,
            ", ".join(uri for (uri,) in names),
        )
        db.execute(
            """DELETE FROM members USING twice t
            WHERE members.image_uri = t.image_uri AND members.position < t.last"""
        )
        # An archive that was added twice gives equal rows.
        db.execute(
            """DELETE FROM members WHERE rowid NOT IN (
                SELECT max(members.rowid) FROM members SEMI JOIN twice USING (image_uri)
                GROUP BY image_uri)
            AND image_uri IN (SELECT image_uri FROM twice)"""
        )
        db.execute(
            "UPDATE members SET wanted = t.wanted FROM twice t WHERE members.image_uri = t.image_uri"
        )
    db.execute("DROP TABLE twice")


def _resolve_links(db: duckdb.DuckDBPyConnection) -> None:
    """Give each link the place of its file: a link may lead to a link, at most `DEEPEST_LINK` in a row."""
    db.execute(
        "CREATE TEMP TABLE hops AS SELECT image_uri, target FROM members WHERE target IS NOT NULL"
    )
    if db.execute("SELECT count(*) FROM hops").fetchall()[0][0]:
        db.execute(
            """CREATE TEMP TABLE places AS SELECT * FROM members
            WHERE target IS NULL AND image_uri IN (SELECT target FROM hops)"""
        )
        for _ in range(DEEPEST_LINK):
            db.execute(
                """UPDATE members SET size_bytes = p.size_bytes, "offset" = p."offset",
                    length = p.length, compression = p.compression, problem = p.problem, target = NULL
                FROM places p WHERE members.target = p.image_uri"""
            )
            db.execute(
                "UPDATE members SET target = h.target FROM hops h WHERE members.target = h.image_uri"
            )
        db.execute(
            f"""UPDATE members SET problem = 'undecodable: the member is a link that leads to no image of '
                || 'the archive within {DEEPEST_LINK} links'
            WHERE target IS NOT NULL"""
        )
        db.execute("DROP TABLE places")
    db.execute("DROP TABLE hops")
