"""Proposals of images: computed on the cluster and cached, or read from a table."""

from pipeline.proposals.cache import compute_proposals, settings_name

__all__ = ["compute_proposals", "settings_name"]
