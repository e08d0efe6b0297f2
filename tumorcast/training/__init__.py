"""Training of the networks, exactly resumable."""
