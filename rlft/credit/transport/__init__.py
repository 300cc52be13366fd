"""Exact 1-Wasserstein distance between spans of tokens, at a small share of the cost of solving every pair.

`nearest_spans` is what SHEAR uses; `wasserstein` compares two point sets. W1 has the Euclidean distance as ground cost
and uniform weights (SHEAR, arXiv 2604.23318, eq. 3). The paper approximates it by Sinkhorn; here it is exact.
"""

from rlft.credit.transport.costs import distances
from rlft.credit.transport.exact import transport, wasserstein
from rlft.credit.transport.nearest import NearestSpans, nearest_spans

__all__ = ["NearestSpans", "distances", "nearest_spans", "transport", "wasserstein"]
