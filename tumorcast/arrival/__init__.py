"""Where a tumour goes, in three dimensions: the volume that it has when it reaches each voxel, as a logarithm."""
