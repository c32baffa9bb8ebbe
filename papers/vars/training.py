"""What VARS changes about training: nothing beyond its host. VARS-S refreshes its step size by itself."""

from papers.rvt.training import hooks

__all__ = ["hooks"]
