"""maps.h5 and growth.h5: their layout, shards, merge, sums and exports."""
