"""Many traces at once: one compact summary a trace, reduced across ranks and hosts, in this process or on Dask."""
