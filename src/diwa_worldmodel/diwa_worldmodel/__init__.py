"""From bags to a data set: import, store, sampler, quality report."""
