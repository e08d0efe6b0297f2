"""From a unit of work to its ensemble: inputs, targets, guidance, members, maps."""
