"""Side-by-side benchmarks: both sides in one run, on the same work, with the ratio printed."""
