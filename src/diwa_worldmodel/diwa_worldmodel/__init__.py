"""From bags to a data set, from a data set to a world model: import, store, sampler, quality report, training.

Import this package before torch: it limits how long OpenMP threads spin (:mod:`diwa_worldmodel.openmp`).
"""

from diwa_worldmodel.openmp import limit_spinning

limit_spinning()
