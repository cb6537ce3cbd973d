"""Proposals of images: computed on the cluster and cached, or read from a table."""

from pipeline.proposals.cache import Proposed, compute_proposals, propose_all, settings_name

__all__ = ["Proposed", "compute_proposals", "propose_all", "settings_name"]
