"""The networks: plain modules that know nothing of diffusion but a time in [0, 1] and a mask token."""
