"""What changed between two captures or two sets of runs, and whether the runs are enough to say so."""
