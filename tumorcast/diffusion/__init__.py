"""Noise schedule, networks and sampler of the diffusion model."""
