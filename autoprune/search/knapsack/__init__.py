"""The knapsack sampler: damage curves and latencies of single groups, decoded into plans and learnt from candidates."""
