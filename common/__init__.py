"""The small core that every paper stands on: declarations, data, robustness, training, measurement.

Nothing here knows a paper; `papers` imports `common`, never the other way round.
"""
